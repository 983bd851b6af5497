"""The tokens that each feature's decoder direction promotes."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

AT_A_TIME = 4096  # features between two progress reports
job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import open_model, with_progress
    from sae import sae_file

    from saesteer.core.tokens import load_tokens
    from saesteer.engine.logit_lens import lens_tokens
    from saesteer.engine.saes import load_decoder_rows, read_meta
    from saesteer.engine.sites import to_residual

    lm, tokens = open_model(job), load_tokens(job.model_folder())

    def promoted(layer: int, rows: pl.DataFrame) -> pl.DataFrame:
        file, k = sae_file(job, layer), job.experiment.logit_lens.k
        directions = load_decoder_rows(file, rows["feature"].to_list())
        ids, logits = lens_tokens(lm, directions, k, to_residual=to_residual(lm, layer, read_meta(file).site))
        return rows.with_columns(
            token_ids=pl.Series(ids.tolist(), dtype=pl.List(pl.UInt32)),
            tokens=pl.Series([tokens.strings(row) for row in ids.tolist()], dtype=pl.List(pl.String)),
            logits=pl.Series(logits.tolist(), dtype=pl.List(pl.Float32)),
        )

    for layer, rows in by_layer(missing):
        frames = (promoted(layer, some) for some in rows.iter_slices(AT_A_TIME))
        yield from with_progress(frames, rows.height, "feature")


complete_step(job, "logit_lens", compute)
