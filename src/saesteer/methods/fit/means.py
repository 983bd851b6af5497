"""Differences of means: DiffMean, where every token counts alike, and CAA, where every text does."""

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem, Tokens, scaled_addition, unit


def diffmean(problem: Problem) -> Addition:
    """DiffMean (P4, arXiv 2501.17148, section 4): mean over all tokens of positive texts - mean over all tokens of negative texts, to unit
    norm."""
    return scaled_addition(problem, difference_of_means(problem.positive_tokens, problem.negative_tokens))


def caa(problem: Problem) -> Addition:
    """CAA, contrastive activation addition, as P2 (arXiv 2411.02193) does it: mean over positive texts of the mean over their tokens, less
    the same of negative ones, at one layer and to unit norm. With as many negative as positive texts this is the mean over contrastive
    pairs, however they are paired. P2's program counts the beginning-of-sequence token too: what that adds is its residual, the same in
    every text, times the difference of the mean of 1 / length, which says nothing of the concept. It is left out."""
    return scaled_addition(problem, unit(mean_of_text_means(problem.positive_tokens) - mean_of_text_means(problem.negative_tokens)))


def difference_of_means(positive: Tokens, negative: Tokens) -> Float[Tensor, " d_model"]:
    """Mean over all tokens of some texts - mean over all tokens of others, to unit norm."""
    return unit(positive.residual.mean(dim=0) - negative.residual.mean(dim=0))


def mean_of_text_means(tokens: Tokens) -> Float[Tensor, " d_model"]:
    """Mean over texts of each one's mean residual; a text that says nothing has none and is left out."""
    return torch.stack([rows.mean(dim=0) for rows in tokens.by_text() if len(rows)]).mean(dim=0)
