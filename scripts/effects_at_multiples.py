"""The effects of held-out vectors at multiples of the scale at which they were measured."""

import polars as pl
from common import open_job
from effect_run import effect_run
from gpu import open_model, with_progress

from saesteer.core.store import read_rows
from saesteer.core.tables import EFFECTS, EFFECTS_AT_MULTIPLES, write_summary
from saesteer.methods.fit.effects import effects_at_multiples

job = open_job(snakemake)
settings = job.experiment.methods.effects
lm = open_model(job)
parts = []
for layer in job.layers:
    held_out = read_rows(EFFECTS, job.inputs["effects"], [layer]).sort("vector").head(settings.n_held_out)
    frames = effects_at_multiples(effect_run(job, lm, layer), held_out)
    parts.extend(with_progress(frames, held_out.height * len(settings.multiples), "vector"))
write_summary(EFFECTS_AT_MULTIPLES, pl.concat(parts), job.outputs["table"])
