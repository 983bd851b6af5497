"""How strong the factors are that were chosen, in units that compare features and layers."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import BEST_FACTORS, CHOSEN_STRENGTHS, PILOT
from saesteer.run import Run
from saesteer.settings import Experiment, Sweep
from saesteer.summaries.summary import Summary


def has_pilot(experiment: Experiment) -> bool:
    return isinstance(experiment, Sweep) and experiment.sweep.pilot is not None


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.pilot_grid import chosen_strengths, grid

    chosen = chosen_strengths(run.summary(BEST_FACTORS), grid(run.rows(PILOT), run.sweep.sweep.factors))
    return {CHOSEN_STRENGTHS.name: chosen}


SUMMARY = Summary((CHOSEN_STRENGTHS,), has_pilot, compute)
