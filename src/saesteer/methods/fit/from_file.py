"""Vectors trained elsewhere, one a concept, from a safetensors file: whatever made them, steered and judged like the others."""

from __future__ import annotations

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Abstains, Problem, steering_scale, unit


def fit(problem: Problem) -> Addition:
    """The file's vector of the concept, to unit norm, scaled as every vector is: by its largest activation on the concept's texts."""
    found = problem.vectors.get(problem.concept)
    if found is None:
        raise Abstains(f"the file of vectors has none for {problem.concept!r}")
    if tuple(found.shape) != (problem.lm.d_model,):
        raise ValueError(
            f"the vector for {problem.concept!r} has shape {tuple(found.shape)}, not ({problem.lm.d_model},), the residual's of "
            f"{problem.lm.name}: give vectors of this model"
        )
    vector = unit(found.to(problem.lm.device).float())
    return Addition(vector, steering_scale(vector, problem.positive_tokens))
