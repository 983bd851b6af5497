"""SAE feature by its label: AxBench's choice (P4, arXiv 2501.17148, section 4), the feature whose label the concept is."""

from __future__ import annotations

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import addition, labelled


def fit(problem: Problem) -> Addition:
    """The labelled feature's decoder direction; training texts are not looked at."""
    return addition(problem, labelled(problem))
