"""Each feature's best factor by both rules, and what steering at it gave on held-out prefixes."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import BEST_FACTORS, FEATURES, OUTCOMES, STEERING
from saesteer.run import Run
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.best_factor import best_factors, outcomes

    chosen = best_factors(run.summary(STEERING), run.sweep.best_factor)
    return {BEST_FACTORS.name: chosen, OUTCOMES.name: outcomes(chosen, run.summary(FEATURES))}


SUMMARY = Summary((BEST_FACTORS, OUTCOMES), sweeps, compute)
