"""The tokens that each feature's decoder direction promotes."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import device, open_model, sae_file

    from saesteer.logit_lens import lens_tokens
    from saesteer.saes import load_decoder_rows
    from saesteer.tokens import load_tokens

    lm = open_model(job)
    tokens = load_tokens(job.model_folder())
    for layer, rows in by_layer(missing):
        directions = load_decoder_rows(sae_file(job, layer), rows["feature"].to_list()).to(device(), lm.dtype)
        ids, logits = lens_tokens(lm, directions, job.experiment.logit_lens.k)
        yield rows.with_columns(
            token_ids=pl.Series(ids.tolist(), dtype=pl.List(pl.UInt32)),
            tokens=pl.Series([tokens.strings(row) for row in ids.tolist()], dtype=pl.List(pl.String)),
            logits=pl.Series(logits.tolist(), dtype=pl.List(pl.Float32)),
        )


complete_step(job, "logit_lens", compute)
