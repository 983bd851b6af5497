"""What filtering by output score does, against random removal and within layers."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import OUTCOMES, SELECTION
from saesteer.run import Run
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.selection import selection

    return {SELECTION.name: selection(run.summary(OUTCOMES), run.sweep.selection)}


SUMMARY = Summary((SELECTION,), sweeps, compute)
