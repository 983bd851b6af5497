"""The effects of a layer's vectors as the SAEs of later layers read them."""

import polars as pl
from common import open_job
from effect_run import effect_run
from gpu import open_model, with_progress
from sae import open_sae

from saesteer.core.store import read_rows
from saesteer.core.tables import EFFECTS, EFFECTS_AT_LATER_LAYERS, write_summary
from saesteer.methods.fit.effects import effects_at_later_layers

job = open_job(snakemake)
n_vectors = job.experiment.methods.effects.n_at_later_layers
lm = open_model(job)
parts = [pl.DataFrame(schema=EFFECTS_AT_LATER_LAYERS.schema)]
for layer in job.layers:
    readers = {later: open_sae(job, later) for later in job.experiment.layers if later > layer}
    effects = read_rows(EFFECTS, job.inputs["effects"], [layer]).sort("vector").head(n_vectors)
    frames = effects_at_later_layers(effect_run(job, lm, layer), readers, effects)
    parts.extend(with_progress(frames, effects.height * len(readers), "vector"))
write_summary(EFFECTS_AT_LATER_LAYERS, pl.concat(parts), job.outputs["table"])
