"""What adding each wanted vector at every position does to the SAE's codes of the texts written."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from effect_run import effect_run
    from gpu import open_model, with_progress

    from saesteer.methods.fit.effects import measured_effects

    lm = open_model(job)
    for layer, rows in by_layer(missing):
        yield from with_progress(measured_effects(effect_run(job, lm, layer), rows), rows.height, "vector")


complete_step(job, "effects", compute)
