"""What adding each wanted vector at every position does to the SAE's codes of the texts written."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress
    from sae import open_sae

    from saesteer.engine.models import plain_token_ids
    from saesteer.methods.fit.effects import measured_effects
    from saesteer.sources.prefixes import effect_prompts

    settings = job.experiment.methods
    lm = open_model(job)
    prompts = [ids for text in effect_prompts(settings) if (ids := plain_token_ids(lm, text))]  # "" has none where there is no BOS token
    for layer, rows in by_layer(missing):
        frames = measured_effects(lm, open_sae(job, layer), layer, rows, prompts, settings.effects, settings.seed)
        yield from with_progress(frames, rows.height, "vector")


complete_step(job, "effects", compute)
