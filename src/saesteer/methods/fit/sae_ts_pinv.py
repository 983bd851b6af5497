"""SAE-TS by pseudo-inverse (a variant of P2, arXiv 2411.02193): the smallest vector whose predicted effect is nearest to one feature's."""

from __future__ import annotations

import torch

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_ts import added, approximator, target_feature


def fit(problem: Problem) -> Addition:
    """(e_j - b) pinv(M), solved for x M + b = e_j with e_j the concept's feature at code 1. P2 leaves the vector's norm as it comes; here
    factors choose the strength, and only the direction is kept."""
    effects = approximator(problem)
    wanted = -effects.b.double()
    wanted[target_feature(problem)] += 1
    return added(problem, wanted @ torch.linalg.pinv(effects.M.double()))
