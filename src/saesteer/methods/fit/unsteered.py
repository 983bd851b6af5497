"""The model as it is: what every other row is compared with, and what an abstaining method's concept counts with."""

from __future__ import annotations

from saesteer.engine.interventions import Nothing
from saesteer.methods.fit.problem import Problem


def fit(problem: Problem) -> Nothing:
    """Nothing to fit."""
    return Nothing()
