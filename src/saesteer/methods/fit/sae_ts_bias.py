"""The bias alone of SAE-TS (P2, arXiv 2411.02193): what its targeted vectors share, whatever the concept. A control."""

from __future__ import annotations

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_ts import added, approximator, bias_direction


def fit(problem: Problem) -> Addition:
    """-(M b) / |M b|."""
    return added(problem, -bias_direction(approximator(problem)))
