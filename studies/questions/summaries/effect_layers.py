"""How well the effects of steering are predicted (SAE-TS) at the steered layer and at later ones."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import EFFECTS
from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import measures_effects_at_many_layers
from studies.questions.tables import EFFECT_LAYERS, EFFECTS_AT_LATER_LAYERS


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.methods.fit.effects import effect_features
    from studies.questions.effect_questions import effect_layers, told_apart

    compared, n_features = run.comparison.methods, run.experiment.saes.n_features
    measured, at_later = compared.effects, run.summary_by_group(EFFECTS_AT_LATER_LAYERS)
    frames = []
    for layer in run.experiment.layers:
        features = effect_features(n_features, measured.n_vectors, compared.seed, layer)
        effects = run.rows(EFFECTS, [layer])
        apart = told_apart(effects, features, measured.n_held_out)
        frames.append(effect_layers(apart, at_later, measured.n_held_out, run.experiment.intervals))
    return {EFFECT_LAYERS.name: pl.concat(frames)}


SUMMARY = Summary((EFFECT_LAYERS,), measures_effects_at_many_layers, compute)
