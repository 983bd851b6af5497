"""How well does each way of detecting a concept tell texts on it from others (P4's first axis, arXiv 2501.17148, section 5.1)?

Even rows of the labelled texts train, odd rows test: of each half up to LARGEST texts on the concept, and as many others. A way gives a
text one number (of numbers of its tokens, the largest: P4) and is worth the area under the ROC curve (AUROC) of the test texts' numbers.
The first token, the beginning-of-sequence token, counts nowhere. Concepts are those that a feature of the layer is labelled with; features'
labels rest on texts of both halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn.functional import normalize

from saesteer.core.tables import FEATURES
from saesteer.engine.directions import difference_of_means
from saesteer.engine.hook_points import HookPoint, sae_hook_point
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, encode
from saesteer.methods.fit.problem import Text, Tokens, tokens
from saesteer.methods.fit.sae_features import auroc
from saesteer.methods.fit.sae_ssv import probes
from saesteer.run import Run
from studies.questions.labelled_texts import LARGEST, chosen_texts, texts_by_topic
from studies.questions.summaries.detection import BY_AUROC, DIFFMEAN, LABELLED, PROBE, WORDS
from studies.questions.tables import DETECTION

FEWEST = 10
"""Texts on the concept, and others, in each half: concepts with fewer are left out."""


@dataclass(frozen=True)
class Sample:
    """Texts of a half, those on the concept first."""

    texts: list[list[int]]
    is_on_concept: Bool[Tensor, " text"]
    tokens: Tokens

    def auroc(self, numbers: Float[Tensor, "text way"]) -> Float64[Tensor, " way"]:
        """Of numbers of the texts."""
        return auroc(numbers[self.is_on_concept], numbers[~self.is_on_concept])

    def largest_activations(self, sae: Sae) -> Float[Tensor, "text n_features"]:
        return torch.stack([encode(sae, read).amax(dim=0) for read in self.tokens.read.split(self.tokens.lengths)])

    def mean_residuals(self) -> Float64[Tensor, "text d_model"]:
        return torch.stack([residual.double().mean(dim=0) for residual in self.tokens.by_text()])

    def token_counts(self, n_vocab: int) -> Float64[Tensor, "text n_vocab"]:
        """How often each text has each token."""
        return torch.stack([torch.tensor(text[1:]).bincount(minlength=n_vocab) for text in self.texts]).double()


def largest_projections(tokens: Tokens, direction: Float[Tensor, " d_model"]) -> Float[Tensor, " text"]:
    """Of each text the largest projection of a residual on a direction."""
    return torch.stack([(residual @ direction).amax() for residual in tokens.by_text()])


def sample(lm: LanguageModel, hook_point: HookPoint, on_concept: pl.DataFrame, others: pl.DataFrame) -> Sample:
    """`chosen_texts` with what the model has at the hook point."""
    texts = [*on_concept["token_ids"].to_list(), *others["token_ids"].to_list()]
    is_on_concept = torch.arange(len(texts)) < on_concept.height
    return Sample(texts, is_on_concept, tokens(lm, hook_point, tuple(Text(text, 1) for text in texts)))


def classified(
    train: Float64[Tensor, "text_train x"], is_on_concept: Bool[Tensor, " text_train"], test: Float64[Tensor, "text_test x"]
) -> Float64[Tensor, " text_test"]:
    """What a logistic regression of training texts (`probes`: a penalty of |w|^2 / 2 beside the summed loss) says of test texts, less its
    bias, which changes no order."""
    (weights,) = probes(train[None], is_on_concept.to(train)[None])
    return test @ weights


def detected(lm: LanguageModel, hook_point: HookPoint, sae: Sae, label: int, train: Sample, test: Sample) -> Iterator[_Detected]:
    """What each of WAYS says of the test texts; `label` is the labelled feature."""
    activations = test.largest_activations(sae)
    yield LABELLED, label, activations[:, label]
    best = int(train.auroc(train.largest_activations(sae)).argmax())  # of equals the lowest id
    yield BY_AUROC, best, activations[:, best]
    having, lacking = ([text for text, on in zip(train.texts, train.is_on_concept, strict=True) if on == which] for which in (True, False))
    (direction,) = difference_of_means(lm, [hook_point], having, lacking)
    yield DIFFMEAN, None, largest_projections(test.tokens, normalize(direction, dim=0))
    means = train.mean_residuals()
    centre, spread = means.mean(dim=0), means.std(dim=0, unbiased=False)
    yield PROBE, None, classified((means - centre) / spread, train.is_on_concept, (test.mean_residuals() - centre) / spread)
    yield WORDS, None, classified(train.token_counts(lm.n_vocab), train.is_on_concept, test.token_counts(lm.n_vocab))


_Detected = tuple[str, int | None, Float[Tensor, " text"]]
"""A way, its feature and its numbers."""


def detection(run: Run) -> pl.DataFrame:
    """DETECTION of an experiment's layers."""
    lm, topics, labelled, rows = run.model(), run.topics(), pl.read_parquet(run.file("texts")), []
    halves = [texts_by_topic(labelled[first::2], topics) for first in (0, 1)]
    features = run.summary(FEATURES).drop_nulls(["concept", "max_activation"])
    ranked = features.sort("concept", "max_activation", "feature", descending=[False, True, False])
    for layer in run.layers:
        sae = run.sae(layer)
        hook_point = sae_hook_point(lm, layer, sae.meta)
        labels = ranked.filter(layer=layer).unique("concept", keep="first", maintain_order=True)
        for concept, label in labels.select("concept", "feature").iter_rows():
            groups = [chosen_texts(half, concept, LARGEST) for half in halves]
            if min(texts.height for half in groups for texts in half) < FEWEST:
                continue
            train, test = (sample(lm, hook_point, *half) for half in groups)
            n_each = {"n_positive": groups[1][0].height, "n_negative": groups[1][1].height}
            for way, feature, numbers in detected(lm, hook_point, sae, label, train, test):
                row = {"layer": layer, "concept": concept, "way": way, "feature": feature, **n_each}
                rows.append(row | {"auroc": test.auroc(numbers[:, None]).item()})
    return pl.DataFrame(rows, DETECTION.schema)
