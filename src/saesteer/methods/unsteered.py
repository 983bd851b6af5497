"""The model as it is: what every other row is compared with, and what an abstaining method's concept counts with."""

from __future__ import annotations

from saesteer.methods.interventions import Nothing
from saesteer.methods.problem import Problem


def fit(problem: Problem) -> Nothing:
    """Nothing to fit."""
    return Nothing()
