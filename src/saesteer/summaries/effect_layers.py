"""How well the effects of steering are predicted (SAE-TS) at the steered layer and at later ones."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import EFFECT_LAYERS, EFFECTS, EFFECTS_AT_LATER_LAYERS
from saesteer.run import Run
from saesteer.summaries import effects_at_later_layers
from saesteer.summaries.summary import Summary


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.methods.fit.effect_questions import effect_layers, told_apart
    from saesteer.methods.fit.effects import effect_features

    compared, n_features = run.comparison.methods, run.experiment.saes.n_features
    measured, at_later = compared.effects, run.summary_by_group(EFFECTS_AT_LATER_LAYERS)
    frames = []
    for layer in run.experiment.layers:
        features = effect_features(n_features, measured.n_vectors, compared.seed, layer)
        effects = run.rows(EFFECTS, [layer]).sort("vector").head(measured.n_at_later_layers)
        apart = told_apart(effects, features, measured.n_held_out)
        frames.append(effect_layers(apart, at_later, measured.n_held_out, run.experiment.intervals))
    return {EFFECT_LAYERS.name: pl.concat(frames)}


SUMMARY = Summary((EFFECT_LAYERS,), effects_at_later_layers.exists, compute)
