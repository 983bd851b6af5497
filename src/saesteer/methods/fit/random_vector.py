"""A random direction, scaled as DiffMean's vector is: what any push of that size does. A control, not a method of a paper."""

from __future__ import annotations

import torch

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem, steering_scale


def fit(problem: Problem) -> Addition:
    """A direction uniform on the sphere, another for every concept and seed."""
    drawn = torch.randn(problem.lm.d_model, generator=problem.generator("random_vector"), dtype=torch.float64)
    vector = (drawn / drawn.norm()).float().to(problem.lm.device)
    return Addition(vector, steering_scale(vector, problem.positive_tokens))
