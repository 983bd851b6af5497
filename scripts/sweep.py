"""Generations of each wanted feature, factor and prefix, steered at the last position of every forward."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, open_sae, with_progress

    from saesteer.engine.continuation import Sampling
    from saesteer.engine.generate import steered_sweep

    settings = job.experiment.sweep
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_k, settings.stop or "")
    lm = open_model(job)
    for layer, rows in by_layer(missing):
        frames = steered_sweep(lm, open_sae(job, layer), layer, rows, job.prefixes(), sampling, settings.seed)
        yield from with_progress(frames, rows.height, "text", tokens="n_tokens")


complete_step(job, "sweep", compute)
