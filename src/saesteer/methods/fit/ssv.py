"""SSV, a supervised steering vector (P4, arXiv 2501.17148, section 4): one vector, added at every position, trained to make positive texts
likely.

P4's program starts it from the same small number in every coordinate and lets the learning rate fall in a straight line to 0. Its length
stays as trained, and it is steered with as every vector there: factor 1 adds max_act * w, with max_act the largest activation h . w on the
concept's texts, so that a vector of norm n is added n^2 times as strongly as its direction alone would be.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem, steering_scale, unit
from saesteer.methods.fit.training import ReadText, Trained, Trainee, losses_behind, read_texts, trained

START = 0.01
"""Each coordinate before training (P4's program)."""


def fit(problem: Problem) -> Trained:
    """The trained vector."""
    return trained(problem, "ssv", untrained, read_texts(problem.lm, problem.hook_point, problem.positive))


def untrained(problem: Problem, _generator: torch.Generator) -> Trainee[ReadText]:
    """What training starts from: `START` in every coordinate."""
    vector = torch.full((problem.width,), START, device=problem.lm.device, requires_grad=True)
    return Trainee([vector], lambda texts, _: steered_losses(problem, texts, vector), lambda: steering(problem, vector.detach()))


def steering(problem: Problem, vector: Float[Tensor, " d_model"]) -> Addition:
    """Factor 1 adds the vector times its largest activation h . vector on the concept's texts."""
    norm = float(vector.norm())
    direction = unit(vector)
    return Addition(direction, steering_scale(direction, problem.positive_tokens) * norm**2)


def steered_losses(problem: Problem, read: Sequence[ReadText], vector: Float[Tensor, " d_model"]) -> Float[Tensor, " token"]:
    """Loss of each token of the outputs (nats), with the vector added to the residual at every position."""
    return losses_behind(problem.lm, problem.hook_point, read, lambda residual: residual + vector.to(residual.dtype))
