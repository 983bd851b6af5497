"""How far SAE-TS's approximator of effects goes: with more vectors, and at multiples of the scale that it is fitted at."""

import polars as pl
from common import open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import (
    APPROXIMATOR_SIZES,
    EFFECT_MULTIPLES,
    EFFECTS,
    EFFECTS_AT_MULTIPLES,
    FEATURES,
    PSEUDO_INVERSES,
    read_summary,
    write_summary,
)
from saesteer.methods.fit.effect_questions import approximator_sizes, effect_multiples, pseudo_inverses, told_apart
from saesteer.methods.fit.effects import effect_features

job = open_job(snakemake)
n_held_out, selection = job.experiment.methods.effects.n_held_out, job.experiment.selection
again = pl.concat(read_summary(EFFECTS_AT_MULTIPLES, path) for path in job.inputs["multiples"])
n_vectors, n_features, seed = job.experiment.methods.effects.n_vectors, job.experiment.saes.n_features, job.experiment.methods.seed
effects = {
    layer: told_apart(read_rows(EFFECTS, job.inputs["effects"], [layer]), effect_features(n_features, n_vectors, seed, layer), n_held_out)
    for layer in job.experiment.layers
}
sizes = (approximator_sizes(rows, n_held_out, selection) for rows in effects.values())
multiples = (effect_multiples(rows, again.filter(layer=layer), n_held_out, selection) for layer, rows in effects.items())
of_concepts = pl.concat(read_summary(FEATURES, path) for path in job.inputs["features"]).drop_nulls("concept")
listed = {layer: of_concepts.filter(layer=layer)["feature"].to_list() for layer in effects}
inverses = (pseudo_inverses(rows, listed[layer], n_held_out, selection) for layer, rows in effects.items())
write_summary(PSEUDO_INVERSES, pl.concat(inverses), job.outputs["pseudo_inverses"])
write_summary(APPROXIMATOR_SIZES, pl.concat(sizes), job.outputs["approximator_sizes"])
write_summary(EFFECT_MULTIPLES, pl.concat(multiples), job.outputs["effect_multiples"])
