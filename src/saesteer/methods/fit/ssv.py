"""SSV, a supervised steering vector (P4, arXiv 2501.17148, section 4): one vector, added at every position, trained to make positive texts
likely.

P4's program starts it from the same small number in every coordinate and lets the learning rate fall in a straight line to 0. The vector's
length is free while it is trained; afterwards only its direction is kept, as with every vector method, so that part of what was learnt, how
far to push, is measured anew by the factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.sites import changed
from saesteer.methods.fit.problem import Problem, Text, scaled_addition, unit
from saesteer.methods.fit.training import Recipe, text_loss, train

RECIPE = Recipe(learning_rate=1e-2, batch=6, accumulated=1, epochs=3)
START = 0.01
"""Each coordinate before training (P4's program)."""


def fit(problem: Problem) -> Addition:
    """The trained vector, to unit norm."""
    return scaled_addition(problem, unit(trained_vector(problem)))


def trained_vector(problem: Problem) -> Float[Tensor, " d_model"]:
    """The vector as trained on positive texts, its length in units of the residual."""
    vector = torch.full((problem.width,), START, device=problem.lm.device, requires_grad=True)
    train([vector], lambda texts: steered_loss(problem, texts, vector), problem.positive, RECIPE, problem.generator("ssv"))
    return vector.detach()


def steered_loss(problem: Problem, texts: Sequence[Text], vector: Float[Tensor, " d_model"]) -> Float[Tensor, ""]:
    """Mean loss per token (nats) of what the texts say, with the vector added to the residual at every position."""
    with changed(problem.lm, problem.site.place, lambda residual: residual + vector.to(residual.dtype)):
        return text_loss(problem.lm, texts)
