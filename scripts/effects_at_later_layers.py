"""The effects of a layer's vectors as the SAEs of later layers read them."""

import polars as pl
from common import open_job
from gpu import open_model, with_progress
from sae import open_sae

from saesteer.core.store import read_rows
from saesteer.core.tables import EFFECTS, EFFECTS_AT_LATER_LAYERS, write_summary
from saesteer.engine.models import plain_token_ids
from saesteer.methods.fit.effects import effects_at_later_layers
from saesteer.sources.prefixes import effect_prompts

job = open_job(snakemake)
settings = job.experiment.methods
lm = open_model(job)
prompts = [ids for text in effect_prompts(settings) if (ids := plain_token_ids(lm, text))]
parts = [pl.DataFrame(schema=EFFECTS_AT_LATER_LAYERS.schema)]
for layer in job.layers:
    readers = {later: open_sae(job, later) for later in job.experiment.layers if later > layer}
    effects = read_rows(EFFECTS, job.inputs["effects"], [layer]).sort("vector").head(settings.effects.n_at_later_layers)
    frames = effects_at_later_layers(lm, open_sae(job, layer), readers, layer, effects, prompts, settings.effects, settings.seed)
    parts.extend(with_progress(frames, effects.height * len(readers), "vector"))
write_summary(EFFECTS_AT_LATER_LAYERS, pl.concat(parts), job.outputs["table"])
