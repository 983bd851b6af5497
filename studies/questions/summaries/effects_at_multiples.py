"""The effects of held-out vectors at multiples of the scale at which they were measured (SAE-TS)."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import EFFECTS
from saesteer.run import Run
from saesteer.steps import effects
from saesteer.summaries.summary import FILE_OF_GROUP, Summary
from saesteer.workflow.job import with_progress
from studies.questions.experiments import MULTIPLES, measures_effects
from studies.questions.tables import EFFECTS_AT_MULTIPLES


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.further_effects import effects_at_multiples

    settings, lm = run.comparison.methods.effects, run.model()
    frames: list[pl.DataFrame] = []
    for layer in layers:
        held_out = run.rows(EFFECTS, [layer]).sort("vector").head(settings.n_held_out)
        measured = effects_at_multiples(effects.effect_run(run, lm, layer), held_out, MULTIPLES)
        frames.extend(with_progress(measured, held_out.height * len(MULTIPLES), "vector"))
    return {EFFECTS_AT_MULTIPLES.name: pl.concat(frames)}


SUMMARY = Summary((EFFECTS_AT_MULTIPLES,), measures_effects, compute, FILE_OF_GROUP, runs_model=True)
