"""CAA, contrastive activation addition, as P2 (arXiv 2411.02193) does it: the mean residual of each text, then over texts, positive less
negative, at one layer.

It differs from DiffMean in what counts alike: here a text, there a token. With as many negative as positive texts the difference of the
means is the mean over contrastive pairs, however they are paired.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem, Tokens, steering_scale, unit


def fit(problem: Problem) -> Addition:
    """mean over positive texts of (mean over their tokens) - the same of negative ones, to unit norm."""
    vector = unit(mean_of_text_means(problem.positive_tokens) - mean_of_text_means(problem.negative_tokens))
    return Addition(vector, steering_scale(vector, problem.positive_tokens))


def mean_of_text_means(found: Tokens) -> Float[Tensor, " d_model"]:
    """Mean over texts of each one's mean residual; a text that says nothing has none and is left out."""
    means = [found.residual[found.text == text].mean(dim=0) for text in found.text.unique()]
    return torch.stack(means).mean(dim=0)
