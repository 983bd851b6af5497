"""How well the effects of steering are predicted (SAE-TS) at the steered layer and at later ones."""

import polars as pl
from common import open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import EFFECT_LAYERS, EFFECTS, EFFECTS_AT_LATER_LAYERS, read_summary, write_summary
from saesteer.methods.fit.effect_questions import effect_layers, told_apart
from saesteer.methods.fit.effects import effect_features

job = open_job(snakemake)
compared, n_features = job.experiment.methods, job.experiment.saes.n_features
at_later = pl.concat(read_summary(EFFECTS_AT_LATER_LAYERS, path) for path in job.inputs["at_later_layers"])
parts = []
for layer in job.experiment.layers:
    features = effect_features(n_features, compared.effects.n_vectors, compared.seed, layer)
    effects = read_rows(EFFECTS, job.inputs["effects"], [layer]).sort("vector").head(compared.effects.n_at_later_layers)
    apart = told_apart(effects, features, compared.effects.n_held_out)
    parts.append(effect_layers(apart, at_later, compared.effects.n_held_out, job.experiment.selection))
write_summary(EFFECT_LAYERS, pl.concat(parts), job.outputs["table"])
