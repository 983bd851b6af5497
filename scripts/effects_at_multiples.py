"""The effects of held-out vectors at multiples of the scale at which they were measured."""

import polars as pl
from common import open_job
from gpu import open_model, with_progress
from sae import open_sae

from saesteer.core.store import read_rows
from saesteer.core.tables import EFFECTS, EFFECTS_AT_MULTIPLES, write_summary
from saesteer.engine.models import plain_token_ids
from saesteer.methods.fit.effects import effects_at_multiples
from saesteer.sources.prefixes import effect_prompts

job = open_job(snakemake)
settings = job.experiment.methods
lm = open_model(job)
prompts = [ids for text in effect_prompts(settings) if (ids := plain_token_ids(lm, text))]
parts = []
for layer in job.layers:
    held_out = read_rows(EFFECTS, job.inputs["effects"], [layer]).sort("vector").head(settings.effects.n_held_out)
    frames = effects_at_multiples(lm, open_sae(job, layer), layer, held_out, prompts, settings.effects, settings.seed)
    parts.extend(with_progress(frames, held_out.height * len(settings.effects.multiples), "vector"))
write_summary(EFFECTS_AT_MULTIPLES, pl.concat(parts), job.outputs["table"])
