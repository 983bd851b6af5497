"""PCA (P4, arXiv 2501.17148, section 4): the first principal component of the positive texts' token residuals.

A component is a line, not a direction: w and -w explain the same variance, and which of the two a solver returns is its accident. Steering
along one is the opposite of steering along the other, so one has to be chosen: that along which positive texts' tokens lie higher, on
average, than negative ones'.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Abstains, Problem, steering_scale, unit


def fit(problem: Problem) -> Addition:
    """The first component of positive tokens, pointing from negative to positive texts."""
    vector = towards_positive(first_component(problem.positive_tokens.residual), problem)
    return Addition(vector, steering_scale(vector, problem.positive_tokens))


def first_component(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " d_model"]:
    """The unit direction of largest variance about the rows' mean, in float64 on the way; its sign is arbitrary."""
    if len(rows) < 2:
        raise Abstains(f"a principal component needs 2 rows, there are {len(rows)}")
    centred = rows.double() - rows.double().mean(dim=0)
    variances, components = torch.linalg.eigh(centred.T @ centred)  # ascending
    if float(variances[-1]) <= 0:
        raise Abstains("all rows are equal: there is no direction of largest variance")
    return unit(components[:, -1].to(rows.dtype))


def towards_positive(vector: Float[Tensor, " d_model"], problem: Problem) -> Float[Tensor, " d_model"]:
    """The vector, or its opposite where negative texts' tokens project higher on it, on average, than positive ones'."""
    difference = problem.positive_tokens.residual.mean(dim=0) - problem.negative_tokens.residual.mean(dim=0)
    return -vector if float(difference @ vector) < 0 else vector
