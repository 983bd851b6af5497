"""Supervised selection of SAE features (P3, arXiv 2605.31183): those whose firing predicts a text's label, even where it is rare.

A feature says yes to a text in which its firing frequency, the share of the text's tokens where its activation is above 0, reaches a
threshold. The threshold is its best by calibrated F1, which counts false positives as if the concept had prevalence pi0 instead of that in
the labelled texts. Concepts with too few texts are dropped, then features that do not write what they read (output score), then all but the
best K; their activations are set to factor * max_act. The control does the same to as many features drawn at random.
"""

import polars as pl
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from saesteer.engine.interventions import ActivationEdit
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.methods.fit.sae_features import at_max_activations, candidates, ranked, scored

REFERENCE_PREVALENCE = 1e-3
"""pi0."""
MIN_TEXTS = 50
"""Concepts with fewer texts are dropped."""
MIN_OUTPUT_SCORE = 1e-3
"""Features below it are dropped."""
K = 5
"""Most features. P3 does not say how many."""
FEATURES_AT_A_TIME = 16_384
"""Features whose thresholds are tried together."""


def false_positive_weight(prevalence: float, reference: float = REFERENCE_PREVALENCE) -> float:
    """c = pi (1 - pi0) / (pi0 (1 - pi)): how many false positives at prevalence pi0 one at prevalence pi stands for (P3)."""
    return prevalence * (1 - reference) / (reference * (1 - prevalence))


def calibrated_f1(
    true_positives: Float64[Tensor, "*case"], false_positives: Float64[Tensor, "*case"], n_positive: int, weight: float
) -> Float64[Tensor, "*case"]:
    """F1c = 2TP / (2TP + c FP + FN) (P3), in [0, 1]; FN = positives that are no true positives; c = 1 is F1."""
    false_negatives = n_positive - true_positives
    return 2 * true_positives / (2 * true_positives + weight * false_positives + false_negatives)


def firing_frequencies(problem: Problem) -> tuple[Float64[Tensor, "text_p n_features"], Float64[Tensor, "text_n n_features"]]:
    """Share of each positive and of each negative text's tokens on which each feature fires."""
    return problem.pooled_activations(lambda activations: (activations > 0).double().mean(dim=0))


def best_calibrated_f1(frequency: Float[Tensor, "text feature"], positive: Bool[Tensor, " text"]) -> Float64[Tensor, " feature"]:
    """Each feature's F1c at its best threshold above 0; 0 for one that never fires."""
    return torch.cat([_best_of_block(part, positive) for part in frequency.split(FEATURES_AT_A_TIME, dim=1)])


def _best_of_block(frequency: Float[Tensor, "text feature"], positive: Bool[Tensor, " text"]) -> Float64[Tensor, " feature"]:
    ordered, order = frequency.sort(dim=0, descending=True)
    is_positive = positive[order]  # [text feature]; the first n rows are the n texts of highest frequency
    n_positive = int(positive.sum())
    weight = false_positive_weight(n_positive / len(positive))
    scores = calibrated_f1(is_positive.cumsum(dim=0).double(), (~is_positive).cumsum(dim=0).double(), n_positive, weight)
    # A threshold cannot part equal frequencies: only the last row of a run of equals is one.
    ends = torch.ones_like(is_positive)
    ends[:-1] = ordered[:-1] > ordered[1:]
    return scores.masked_fill(~ends | (ordered <= 0), 0).amax(dim=0)


def selected(problem: Problem) -> list[int]:
    """The concept's features, the best first: candidates of F1c above 0 that pass the thresholds, at most K."""
    if len(problem.positive) < MIN_TEXTS:
        raise Abstains(f"the concept has {len(problem.positive)} texts, fewer than {MIN_TEXTS}")
    frequency = torch.cat(firing_frequencies(problem))
    positive = torch.arange(len(frequency), device=frequency.device) < len(problem.positive)
    rows = scored(candidates(problem), "f1c", best_calibrated_f1(frequency, positive))
    rows = rows.filter((pl.col("f1c") > 0) & (pl.col("output_score") >= MIN_OUTPUT_SCORE))
    if rows.is_empty():
        raise Abstains(f"no feature with an output score of at least {MIN_OUTPUT_SCORE} predicts the concept")
    return ranked(rows, "f1c")["feature"].head(K).to_list()


def supervised(problem: Problem) -> ActivationEdit:
    """The selected features at their max activations."""
    return at_max_activations(problem, selected(problem))


def random_control(problem: Problem) -> ActivationEdit:
    """The control of supervised selection: as many features and the same edit, but drawn among all with max-activating examples; where that
    abstains, so does its control."""
    n = len(selected(problem))
    features = candidates(problem).filter(pl.col("n_examples") > 0)["feature"].to_list()
    if len(features) < n:
        raise Abstains(f"{len(features)} features have max-activating examples, fewer than the {n} to be drawn")
    drawn = torch.randperm(len(features), generator=problem.generator("supervised_random"))[:n].tolist()
    return at_max_activations(problem, [features[n] for n in drawn])
