"""What fitted methods are compared with: the model as it is, a random direction, and vectors trained elsewhere."""

import torch

from saesteer.engine.interventions import Addition, Nothing
from saesteer.methods.fit.problem import Abstains, Problem, scaled_addition, unit


def unsteered(problem: Problem) -> Nothing:
    """The model as it is: what every other row is compared with, and what an abstaining method's concept counts with."""
    return Nothing()


def random_vector(problem: Problem) -> Addition:
    """A direction uniform on the sphere, another for every concept and seed, scaled as DiffMean's vector is: what any push of that size
    does. A control, not a method of a paper."""
    drawn = torch.randn(problem.width, generator=problem.generator("random_vector"), dtype=torch.float64)
    return scaled_addition(problem, (drawn / drawn.norm()).float().to(problem.lm.device))


def from_file(problem: Problem) -> Addition:
    """The concept's vector of a safetensors file, whatever made it: to unit norm, scaled as every vector is."""
    if problem.vector is None:
        raise Abstains(f"the file of vectors has none for {problem.concept!r}")
    return scaled_addition(problem, unit(problem.vector.to(problem.lm.device).float()))
