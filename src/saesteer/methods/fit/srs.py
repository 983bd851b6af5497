"""SRS, sparse representation steering (arXiv 2503.16851): the features whose activations are distributed most differently over positive and
negative texts, each moved by the difference of its means.

The measure is the bidirectional Kullback-Leibler divergence KL(P || Q) + KL(Q || P) of a feature's activations in positive (P) and in
negative texts (Q). The edit of activations, mean over positive texts - mean over negative ones for the `K` features of largest divergence
and 0 for all others, is decoded and added, as one vector.

After the paper's abstract and introduction: its equations could not be read. They leave open how the two distributions are estimated (here:
a histogram of a text's mean activations with a bin for 0 and `N_BINS` of equal width up to the largest, every bin counted once more than it
was hit, so that divergences are finite) and how many features are moved. The paper contrasts pairs of prompts; here are texts, not in
pairs.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import candidates, combination, ranked, scored

K = 20
"""Features moved. Ours."""
N_BINS = 10
"""Ours."""


def fit(problem: Problem) -> Addition:
    """The decoded edit, to unit norm."""
    positive, negative = problem.mean_activations()
    rows = ranked(scored(candidates(problem), "divergence", divergences(positive, negative)), "divergence")
    features = rows["feature"].head(K).to_list()
    return combination(problem, features, (positive.mean(dim=0) - negative.mean(dim=0))[features])


def divergences(positive: Float[Tensor, "text_p feature"], negative: Float[Tensor, "text_n feature"]) -> Float64[Tensor, " feature"]:
    """Each feature's KL(P || Q) + KL(Q || P) = sum over bins of (p - q) log(p / q), in nats."""
    largest = torch.maximum(positive.amax(dim=0), negative.amax(dim=0)).double()
    p, q = (_histogram(activations, largest) for activations in (positive, negative))
    return ((p - q) * (p / q).log()).sum(dim=0)


def _histogram(activations: Float[Tensor, "text feature"], largest: Float64[Tensor, " feature"]) -> Float64[Tensor, "bin feature"]:
    """Share of texts whose mean activation is 0, and in each of `N_BINS` parts of (0, largest], smoothed by one."""
    part = (activations.double() / largest.clamp(min=torch.finfo(torch.float64).tiny) * N_BINS).ceil().long().clamp(max=N_BINS)
    counts = torch.ones(N_BINS + 1, activations.shape[1], dtype=torch.float64, device=activations.device)
    counts.scatter_add_(0, part, torch.ones_like(activations, dtype=torch.float64))
    return counts / counts.sum(dim=0)
