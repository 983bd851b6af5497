"""First principal components: PCA of token residuals, LAT of differences between pairs of them.

A component is a line, not a direction: w and -w explain the same variance, and which of the two a solver returns is its accident. Steering
along one is the opposite of steering along the other, so one has to be chosen: that along which positive texts' tokens lie higher, on
average, than negative ones'.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Abstains, Problem, scaled_addition, unit


def pca(problem: Problem) -> Addition:
    """PCA (P4, arXiv 2501.17148, section 4): the first component of the positive texts' token residuals."""
    return _along_component(problem, problem.positive_tokens.residual)


def lat(problem: Problem) -> Addition:
    """LAT, linear artificial tomography, as P4 (arXiv 2501.17148, section 4) does it: the first component of normalised differences between
    random pairs of the positive texts' token residuals."""
    return _along_component(problem, pair_differences(problem.positive_tokens.residual, problem.generator("lat")))


def _along_component(problem: Problem, rows: Float[Tensor, "row d_model"]) -> Addition:
    """Along the rows' first component, or its opposite where negative texts' tokens project higher on it, on average, than positive
    ones'."""
    vector = first_component(rows)
    difference = problem.positive_tokens.residual.mean(dim=0) - problem.negative_tokens.residual.mean(dim=0)
    return scaled_addition(problem, -vector if float(difference @ vector) < 0 else vector)


def first_component(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " d_model"]:
    """The unit direction of largest variance about the rows' mean, in float64 on the way; its sign is arbitrary."""
    if len(rows) < 2:
        raise Abstains(f"a principal component needs 2 rows, there are {len(rows)}")
    centred = rows.double() - rows.double().mean(dim=0)
    variances, components = torch.linalg.eigh(centred.T @ centred)  # ascending
    if float(variances[-1]) <= 0:
        raise Abstains("all rows are equal: there is no direction of largest variance")
    return unit(components[:, -1].to(rows.dtype))


def pair_differences(rows: Float[Tensor, "row d_model"], generator: torch.Generator) -> Float[Tensor, "pair d_model"]:
    """(a - b) / |a - b| of rows paired at random, each in one pair at most (an odd one is left over).

    Equal rows (texts that begin with the same words) have no direction between them and are left out.
    """
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    half = len(rows) // 2
    difference = rows[order[:half]] - rows[order[half : 2 * half]]
    norm = difference.norm(dim=1, keepdim=True)
    return (difference / norm)[norm[:, 0] > 0]
