"""The effects of a layer's vectors as the SAEs of later layers read them (SAE-TS)."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.progress import with_progress
from saesteer.core.tables import EFFECTS, EFFECTS_AT_LATER_LAYERS
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment
from saesteer.steps import effects
from saesteer.summaries.summary import FILE_OF_GROUP, Summary


def exists(experiment: Experiment) -> bool:
    return isinstance(experiment, Comparison) and effects.step(experiment) is not None and experiment.methods.effects.n_at_later_layers > 0


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.methods.fit.effects import effects_at_later_layers

    n_vectors, lm = run.comparison.methods.effects.n_at_later_layers, run.model()
    frames = [pl.DataFrame(schema=EFFECTS_AT_LATER_LAYERS.schema)]
    for layer in layers:
        readers = {later: run.sae(later) for later in run.experiment.layers if later > layer}
        vectors = run.rows(EFFECTS, [layer]).sort("vector").head(n_vectors)
        measured = effects_at_later_layers(effects.effect_run(run, lm, layer), readers, vectors)
        frames.extend(with_progress(measured, vectors.height * len(readers), "vector"))
    return {EFFECTS_AT_LATER_LAYERS.name: pl.concat(frames)}


SUMMARY = Summary((EFFECTS_AT_LATER_LAYERS,), exists, compute, FILE_OF_GROUP, runs_model=True)
