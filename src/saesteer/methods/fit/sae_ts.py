"""SAE-TS (P2, arXiv 2411.02193, section 3): the vector that the linear approximator of steering effects says raises one feature and nothing
else, less the direction in which every vector pushes."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Approximator, Problem, steering_scale, unit
from saesteer.methods.fit.sae_features import best, with_auroc


def fit(problem: Problem) -> Addition:
    """M_j / |M_j| - (M b) / |M b|, to unit norm, for the concept's feature j."""
    effects = approximator(problem)
    return added(problem, targeted(effects, target_feature(problem)))


def target_feature(problem: Problem) -> int:
    """The feature labelled with the concept or, where none is, the one that tells its training texts best from others (by AUROC)."""
    if problem.label is not None:
        return problem.label
    return best(with_auroc(problem), "auroc", "no feature is labelled with the concept, and none was ever active")


def targeted(effects: Approximator, feature: int) -> Float64[Tensor, " d_model"]:
    """P2's targeted vector of a feature, before its last normalisation."""
    return unit(effects.M[:, feature].double(), f"no measured vector changes feature {feature}") - bias_direction(effects)


def bias_direction(effects: Approximator) -> Float64[Tensor, " d_model"]:
    """(M b) / |M b|: b is what any vector does to the features, M b the direction that does most of it."""
    return unit(effects.M.double() @ effects.b.double(), "the approximator's bias is zero")


def added(problem: Problem, vector: Float64[Tensor, " d_model"]) -> Addition:
    """The vector to unit norm, with its largest activation on the concept's texts as factor 1."""
    direction = unit(vector, "the vector is zero").float().to(problem.lm.device)
    return Addition(direction, steering_scale(direction, problem.positive_tokens))


def approximator(problem: Problem) -> Approximator:
    """The approximator that the problem must come with, in the CPU's memory."""
    if problem.effects is None:
        raise ValueError(f"concept {problem.concept!r}: this method needs the effects of steering (table effects), and was given none")
    return Approximator(problem.effects.M.cpu(), problem.effects.b.cpu(), problem.effects.r2)
