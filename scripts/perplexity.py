"""The loss of each text, given its prompt, under the second model."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, missing_texts, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress

    from saesteer.engine.perplexity import text_losses

    lm = open_model(job, "perplexity_model")
    frames = text_losses(lm, missing_texts(job, missing, ["text", "reason"]), job.prefixes(), job.experiment.model.prompt_format)
    yield from with_progress(frames, missing.height, "text", tokens="n_scored")


complete_step(job, "perplexity", compute)
