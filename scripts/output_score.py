"""P1's output score of each feature."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    import torch
    from gpu import device, open_model, open_sae

    from saesteer.output_score import output_scores
    from saesteer.store import read_rows
    from saesteer.tables import LOGIT_LENS

    settings = job.experiment.output_score
    lm = open_model(job)
    lens = read_rows(LOGIT_LENS, job.inputs["logit_lens"], job.layers, ["token_ids"])
    for layer, rows in by_layer(missing):
        ids = rows.join(lens, on=["layer", "feature"], maintain_order="left")["token_ids"]
        lens_ids = torch.tensor(ids.to_list(), device=device())
        scores = output_scores(
            lm, open_sae(job, layer), layer, rows["feature"].to_list(), lens_ids, settings.prompt, float(settings.factor)
        )
        yield scores.with_columns(layer=pl.lit(layer, pl.UInt16))


complete_step(job, "output_score", compute)
