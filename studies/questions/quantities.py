"""Cheap quantities of features that need a model.

From decoder rows alone: how sure the logit lens is, and whether a row is that of a single token. From labelled texts, of every feature that
has a concept: how much removing it raises the loss on the concept's texts, by gradient and measured (sae_gradient_input and sae_ablation
choose by the same), and how much of the concept's own direction its decoder row has.
"""

from collections.abc import Callable, Iterator

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.head import raw_logits, scaled
from saesteer.engine.models import LanguageModel, final_norm
from saesteer.engine.saes import Sae
from saesteer.methods.fit.means import difference_of_means
from saesteer.methods.fit.problem import Problem, Text
from saesteer.methods.fit.sae_ablation import measured_rise
from saesteer.methods.fit.sae_gradient_input import first_order_rise
from saesteer.settings.recipes import Training
from studies.questions.labelled_texts import chosen_texts

N_TEXTS = 24
"""Of the concept, and as many of others."""
SCHEMA = {"layer": pl.UInt16, "feature": pl.UInt32, "gradient": pl.Float64, "ablation": pl.Float64, "mean_cosine": pl.Float64}


ROWS_AT_A_TIME = 256


def lens_log_probabilities(lm: LanguageModel, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """log softmax(head(final_norm(row))), nats; no soft cap."""
    return scaled(lm, raw_logits(lm, final_norm(lm, residual))).double().log_softmax(dim=1)


@torch.no_grad()
def decoder_quantities(
    lm: LanguageModel, rows: Float[Tensor, "feature width"], to_residual: Callable[[Tensor], Tensor] = lambda rows: rows
) -> pl.DataFrame:
    """lens_confidence (log probability, nats, of the likeliest token of head(final_norm(row)); no soft cap) and head_cosine (largest cosine
    with a row of the head), a line a decoder row."""
    confidence, cosine = [], []
    head = torch.nn.functional.normalize(lm.head.weight.float(), dim=1)
    for part in rows.split(ROWS_AT_A_TIME):
        residual = to_residual(part.to(lm.device))
        confidence.append(lens_log_probabilities(lm, residual).amax(dim=1))
        cosine.append((torch.nn.functional.normalize(residual.float(), dim=1) @ head.T).amax(dim=1).double())
    return pl.DataFrame({"lens_confidence": torch.cat(confidence).cpu().numpy(), "head_cosine": torch.cat(cosine).cpu().numpy()})


def label_quantities(lm: LanguageModel, sae: Sae, layer: int, features: pl.DataFrame, texts: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """FEATURES rows of a layer and labelled_texts.texts_by_topic -> layer, feature, gradient and ablation (rise of the mean loss, nats a
    token, on texts of the concept less on others) and mean_cosine (with the mean of the concept's texts less that of others, DiffMean's
    direction), a frame a concept."""
    for (concept,), rows in features.drop_nulls("concept").sort("feature").group_by("concept", maintain_order=True):
        positive, negative = (
            tuple(Text(list(ids), int(n)) for ids, n in chosen.select("token_ids", "n_context").iter_rows())
            for chosen in chosen_texts(texts, str(concept), N_TEXTS)
        )
        if not positive or not negative:
            continue
        problem = Problem(lm, sae, layer, str(concept), positive, negative, features=rows, seed=0, training=Training({}))
        numbers = rows["feature"].to_list()
        gradient = first_order_rise(problem, positive) - first_order_rise(problem, negative)
        ablation = measured_rise(problem, positive, numbers) - measured_rise(problem, negative, numbers)
        difference = difference_of_means(problem.positive_tokens, problem.negative_tokens)
        cosine = torch.nn.functional.cosine_similarity(sae.W_dec[numbers].float(), difference[None], dim=1)
        columns = {"layer": [layer] * len(numbers), "feature": numbers, "gradient": gradient.cpu()[numbers].tolist()}
        yield pl.DataFrame(columns | {"ablation": ablation.tolist(), "mean_cosine": cosine.tolist()}, schema=SCHEMA)
