"""What the filter by output score gains in every variant of the analysis."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import FEATURES, FILTER_VARIANTS, GENERATIONS, STEERING
from saesteer.run import Run
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.filter_variants import filter_variants, lens_frequencies

    experiment, features = run.sweep, run.summary(FEATURES)
    frequencies = lens_frequencies(run.rows(GENERATIONS).filter(factor="0"), features)
    rows = filter_variants(run.summary(STEERING), features, frequencies, experiment.best_factor, experiment.selection)
    return {FILTER_VARIANTS.name: rows}


SUMMARY = Summary((FILTER_VARIANTS,), sweeps, compute)
