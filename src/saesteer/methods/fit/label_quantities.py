"""What labelled texts say about every feature that has a concept: how much removing it raises the loss on the concept's texts, by gradient
and measured (`sae_gradient_input` and `sae_ablation` choose by the same), and how much of the concept's own direction its decoder row has.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl
import torch

from saesteer.analysis.labelled_texts import chosen_texts
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.methods.fit.means import difference_of_means
from saesteer.methods.fit.problem import Problem, Text
from saesteer.methods.fit.sae_ablation import measured_rise
from saesteer.methods.fit.sae_gradient_input import first_order_rise
from saesteer.settings.recipes import Training

N_TEXTS = 24
"""Of the concept, and as many of others."""
SCHEMA = {"layer": pl.UInt16, "feature": pl.UInt32, "gradient": pl.Float64, "ablation": pl.Float64, "mean_cosine": pl.Float64}


def label_quantities(lm: LanguageModel, sae: Sae, layer: int, features: pl.DataFrame, texts: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """FEATURES rows of a layer and labelled_texts.texts_by_topic -> layer, feature, gradient and ablation (rise of the mean loss, nats a
    token, on texts of the concept less on others) and mean_cosine (with the mean of the concept's texts less that of others, DiffMean's
    direction), a frame a concept."""
    for (concept,), own in features.drop_nulls("concept").sort("feature").group_by("concept", maintain_order=True):
        positive, negative = (_texts(rows) for rows in chosen_texts(texts, str(concept), N_TEXTS))
        if not positive or not negative:
            continue
        problem = Problem(
            lm=lm,
            sae=sae,
            layer=layer,
            concept=str(concept),
            positive=positive,
            negative=negative,
            features=own,
            label=None,
            effects=None,
            vectors={},
            seed=0,
            training=Training({}),
        )
        numbers = own["feature"].to_list()
        gradient = first_order_rise(problem, positive) - first_order_rise(problem, negative)
        ablation = measured_rise(problem, positive, numbers) - measured_rise(problem, negative, numbers)
        columns = {"layer": [layer] * len(numbers), "feature": numbers, "gradient": gradient.cpu()[numbers].tolist()}
        difference = difference_of_means(problem.positive_tokens, problem.negative_tokens)
        cosine = torch.nn.functional.cosine_similarity(sae.W_dec[numbers].float(), difference[None], dim=1)
        yield pl.DataFrame(columns | {"ablation": ablation.tolist(), "mean_cosine": cosine.tolist()}, schema=SCHEMA)


def _texts(rows: pl.DataFrame) -> tuple[Text, ...]:
    return tuple(Text(list(ids), int(n)) for ids, n in rows.select("token_ids", "n_context").iter_rows())
