"""The effects of a layer's vectors as the SAEs of later layers read them (SAE-TS)."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import EFFECTS
from saesteer.run import Run
from saesteer.steps import effects
from saesteer.summaries.summary import FILE_OF_GROUP, Summary
from saesteer.workflow.job import with_progress
from studies.questions.experiments import measures_effects_at_many_layers
from studies.questions.tables import EFFECTS_AT_LATER_LAYERS


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.further_effects import effects_at_later_layers

    lm = run.model()
    frames = [pl.DataFrame(schema=EFFECTS_AT_LATER_LAYERS.schema)]
    for layer in layers:
        readers = {later: run.sae(later) for later in run.experiment.layers if later > layer}
        vectors = run.rows(EFFECTS, [layer])
        measured = effects_at_later_layers(effects.effect_run(run, lm, layer), readers, vectors)
        frames.extend(with_progress(measured, vectors.height * len(readers), "vector"))
    return {EFFECTS_AT_LATER_LAYERS.name: pl.concat(frames)}


SUMMARY = Summary((EFFECTS_AT_LATER_LAYERS,), measures_effects_at_many_layers, compute, FILE_OF_GROUP, runs_model=True)
