"""GenSuccess and perplexity against factor, by output-score bin."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import FACTOR_BINS, FEATURES, PILOT, STEERING
from saesteer.run import Run
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.factor_bins import EDGES, factor_bins
    from saesteer.analysis.pilot_grid import by_multiple, grid

    experiment, steering, features = run.sweep, run.summary(STEERING), run.summary(FEATURES)
    if experiment.sweep.pilot:
        steering = by_multiple(steering, grid(run.rows(PILOT), experiment.sweep.factors))
    return {FACTOR_BINS.name: factor_bins(steering, features, EDGES, experiment.selection)}


SUMMARY = Summary((FACTOR_BINS,), sweeps, compute)
