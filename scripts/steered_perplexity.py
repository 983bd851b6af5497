"""The loss of each steered text, given its prompt, under the second model."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import STEERED

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress

    from saesteer.engine.method_loss import steered_nll

    steered = read_rows(STEERED, job.inputs["steered"], job.layers, ["text"]).join(missing, on=STEERED.keys, how="semi")
    lm = open_model(job, "perplexity_model")
    frames = steered_nll(lm, steered, job.prefixes(), job.experiment.model.prompt_format)
    yield from with_progress(frames, steered.height, "text", tokens="n_scored")


complete_step(job, "steered_perplexity", compute)
