"""SAE-TS by rotation (a variant of P2, arXiv 2411.02193): decoder rows turned to where steering has their effect, by one rotation for all
features, less the direction in which every vector pushes."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.saes import Sae
from saesteer.methods.fit.problem import Approximator, Problem, unit
from saesteer.methods.fit.sae_ts import added, approximator, bias_direction, target_feature


def fit(problem: Problem) -> Addition:
    """Q W_dec[j] to unit norm, less (M b) / |M b|, to unit norm; Q of `rotation`."""
    effects, feature = approximator(problem), target_feature(problem)
    turned = rotation(effects, problem.sae) @ problem.sae.W_dec[feature].cpu().double()
    return added(problem, unit(turned, f"the decoder row of feature {feature} is zero") - bias_direction(effects))


def rotation(effects: Approximator, sae: Sae) -> Float64[Tensor, "d_model d_model"]:
    """The orthogonal Q that brings unit decoder rows nearest to the unit columns of M (Procrustes): U V^T of the singular value
    decomposition of their product [d_model n_features] @ [n_features d_model].

    P2's program calls the transpose R: it fits M's columns to decoder rows, and steers with R^T W_dec[j]. Features that no vector changes
    are left out.
    """
    M, W_dec = effects.M.double(), sae.W_dec.cpu().double()
    lengths, norms = M.norm(dim=0), W_dec.norm(dim=1)
    kept = (lengths > 0) & (norms > 0)
    U, _, Vt = torch.linalg.svd((M[:, kept] / lengths[kept]) @ (W_dec[kept] / norms[kept, None]))
    return U @ Vt
