"""FGAA, feature guided activation additions (P6, arXiv 2501.09929): the features in which a concept's texts differ from others, filtered
and weighted, aimed at through SAE-TS's approximator of steering effects (P2, arXiv 2411.02193)."""

import polars as pl
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from saesteer.engine.hook_points import reading
from saesteer.engine.interventions import Addition
from saesteer.engine.models import pad_rows
from saesteer.engine.saes import encode
from saesteer.methods.fit.problem import Abstains, Problem, unit
from saesteer.methods.fit.sae_ts import approximator, bias_direction, unit_addition

DENSEST = 0.01
"""Features active on a larger share of tokens are left out (P6)."""

N_POSITIVE, N_NEGATIVE = 50, 0
"""Most features of those that are more active on the concept's texts (n1), and of those that are less (n2). Ours: few pass the filters."""


def fit(problem: Problem) -> Addition:
    """M v / |M v| - M b / |M b|, to unit norm, for the target v in feature space."""
    effects = approximator(problem)
    target = v_target(activation_difference(problem), allowed(problem), N_POSITIVE, N_NEGATIVE)
    aimed = unit(effects.M.double() @ target.cpu(), "no measured vector changes the features that the concept's texts differ in")
    return unit_addition(problem, aimed - bias_direction(effects))


def activation_difference(problem: Problem) -> Float64[Tensor, " n_features"]:
    """Mean activation of each feature over the tokens of a text, averaged over texts: positive texts' less negative ones'."""
    positive, negative = (of_texts.double().mean(dim=0) for of_texts in problem.mean_activations())
    return positive - negative


def allowed(problem: Problem) -> Bool[Tensor, " n_features"]:
    """Scored features that are rare (a feature of unknown density is not) and not active on the beginning-of-sequence token."""
    rare = problem.features.filter(pl.col("density") <= DENSEST)["feature"].to_list()
    is_rare = torch.zeros(problem.sae.meta.n_features, dtype=torch.bool, device=problem.lm.device)
    is_rare[rare] = True
    first_token = problem.positive[0].ids[:1]
    if first_token != [problem.lm.tokenizer.bos_token_id]:
        return is_rare
    at_hook_point = reading(problem.lm, torch.tensor([first_token], device=problem.lm.device), problem.hook_point)
    return is_rare & ~(encode(problem.sae, pad_rows(at_hook_point.read[:, 0]))[0] > 0)


def v_target(
    difference: Float64[Tensor, " n_features"], is_allowed: Bool[Tensor, " n_features"], n_positive: int, n_negative: int
) -> Float64[Tensor, " n_features"]:
    """The `n_positive` largest positive and `n_negative` largest negative differences among the allowed features, 0 elsewhere, over the sum
    of their absolute values."""
    target = torch.zeros_like(difference)
    for sign, n in ((1, n_positive), (-1, n_negative)):
        values = (sign * difference).masked_fill(~is_allowed, 0).clamp(min=0)
        largest = values.topk(min(n, len(values)))
        target[largest.indices] += sign * largest.values
    if not bool(target.any()):
        raise Abstains("every feature in which the concept's texts differ is too dense, or active on the beginning-of-sequence token")
    return target / target.abs().sum()
