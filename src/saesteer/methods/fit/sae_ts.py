"""SAE-TS and its variants (P2, arXiv 2411.02193, section 3): vectors that the linear approximator of steering effects says raise one
feature and nothing else, less the direction in which every vector pushes."""

from functools import lru_cache

import torch
from jaxtyping import Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.saes import Sae
from saesteer.methods.fit.problem import Approximator, Problem, scaled_addition, unit
from saesteer.methods.fit.sae_features import best, with_auroc


def sae_ts(problem: Problem) -> Addition:
    """M_j / |M_j| - (M b) / |M b|, to unit norm, for the concept's feature j."""
    return unit_addition(problem, targeted(approximator(problem), target_feature(problem)))


def pinv(problem: Problem) -> Addition:
    """By pseudo-inverse: (e_j - b) pinv(M), the smallest x that solves x M + b = e_j best, with e_j the concept's feature at activation 1.
    P2 leaves the vector's norm as it comes; here factors choose the strength, and only the direction is kept."""
    effects = approximator(problem)
    effect = -effects.b.double()
    effect[target_feature(problem)] += 1
    return unit_addition(problem, effect @ pseudo_inverse(effects))


def rotated(problem: Problem) -> Addition:
    """By rotation: the decoder row turned to where steering has its effect, by one rotation for all features. Q W_dec[j] to unit norm, less
    (M b) / |M b|, to unit norm; Q of `rotation`."""
    effects, feature = approximator(problem), target_feature(problem)
    turned = rotation(effects, problem.sae) @ problem.sae.W_dec[feature].cpu().double()
    return unit_addition(problem, unit(turned, f"the decoder row of feature {feature} is zero") - bias_direction(effects))


def bias_alone(problem: Problem) -> Addition:
    """-(M b) / |M b|: what the targeted vectors share, whatever the concept. A control."""
    return unit_addition(problem, -bias_direction(approximator(problem)))


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


@lru_cache(maxsize=1)
def pseudo_inverse(effects: Approximator) -> Float64[Tensor, "n_features d_model"]:
    """pinv(M): minutes for a wide SAE, and the same for every concept."""
    return torch.linalg.pinv(effects.M.double())


@lru_cache(maxsize=1)
def rotation(effects: Approximator, sae: Sae) -> Float64[Tensor, "d_model d_model"]:
    """The orthogonal Q that brings unit decoder rows nearest to the unit columns of M (Procrustes): U V^T of the singular value
    decomposition of their product [d_model n_features] @ [n_features d_model].

    P2's program calls the transpose R: it fits M's columns to decoder rows, and steers with R^T W_dec[j]. Features that no vector changes
    are left out.
    """
    M, W_dec = effects.M.double(), sae.W_dec.cpu().double()
    lengths, norms = M.norm(dim=0), W_dec.norm(dim=1)
    changed = (lengths > 0) & (norms > 0)
    U, _, Vt = torch.linalg.svd((M[:, changed] / lengths[changed]) @ (W_dec[changed] / norms[changed, None]))
    return U @ Vt


def unit_addition(problem: Problem, vector: Float64[Tensor, " d_model"]) -> Addition:
    """A vector, to unit norm in float64, as an addition."""
    return scaled_addition(problem, unit(vector, "the vector is zero").float().to(problem.lm.device))


def approximator(problem: Problem) -> Approximator:
    """The approximator that the problem must come with."""
    if problem.effects is None:
        raise ValueError(f"concept {problem.concept!r}: this method needs the effects of steering (table effects), and was given none")
    return problem.effects
