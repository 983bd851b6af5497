"""DiffMean (P4, arXiv 2501.17148, section 4): the mean residual of what positive texts say, less that of negative ones."""

from __future__ import annotations

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem, steering_scale, unit


def fit(problem: Problem) -> Addition:
    """mean over all tokens of positive texts - mean over all tokens of negative texts, to unit norm."""
    vector = unit(problem.positive_tokens.residual.mean(dim=0) - problem.negative_tokens.residual.mean(dim=0))
    return Addition(vector, steering_scale(vector, problem.positive_tokens))
