"""LAT, linear artificial tomography, as P4 (arXiv 2501.17148, section 4) does it: the first principal component of normalised differences
between random pairs of the positive texts' token residuals.

As of any component, its sign is arbitrary and is chosen as PCA's is (saesteer.methods.fit.pca).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.pca import first_component, towards_positive
from saesteer.methods.fit.problem import Problem, steering_scale


def fit(problem: Problem) -> Addition:
    """The first component of the pairs' differences, pointing from negative to positive texts."""
    differences = pair_differences(problem.positive_tokens.residual, problem.generator("lat"))
    vector = towards_positive(first_component(differences), problem)
    return Addition(vector, steering_scale(vector, problem.positive_tokens))


def pair_differences(rows: Float[Tensor, "row d_model"], generator: torch.Generator) -> Float[Tensor, "pair d_model"]:
    """(a - b) / |a - b| of rows paired at random, each in one pair at most (an odd one is left over).

    Equal rows (texts that begin with the same words) have no direction between them and are left out.
    """
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    half = len(rows) // 2
    difference = rows[order[:half]] - rows[order[half : 2 * half]]
    norm = difference.norm(dim=1, keepdim=True)
    return (difference / norm)[norm[:, 0] > 0]
