"""P1's output score of each feature, and P5's delta token confidence."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    import torch
    from gpu import open_model, with_progress
    from sae import sae_file

    from saesteer.core.store import read_rows
    from saesteer.core.tables import LOGIT_LENS
    from saesteer.engine.output_score import output_scores_from_file

    settings = job.experiment.output_score
    lm = open_model(job)
    lens = read_rows(LOGIT_LENS, job.inputs["logit_lens"], job.layers, ["token_ids"])
    for layer, rows in by_layer(missing):
        ids = torch.tensor(rows.join(lens, on=["layer", "feature"], maintain_order="left")["token_ids"].to_list())
        frames = output_scores_from_file(
            lm, sae_file(job, layer), layer, rows["feature"].to_list(), ids, settings.prompt, float(settings.factor)
        )
        yield from with_progress((frame.with_columns(layer=pl.lit(layer, pl.UInt16)) for frame in frames), rows.height, "feature")


complete_step(job, "output_score", compute)
