"""GenSuccess@1, 5 and 20 of each generation."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, open_job

from saesteer.analysis.gen_success import gen_success
from saesteer.core.store import read_rows
from saesteer.core.tables import GENERATIONS, LOGIT_LENS
from saesteer.core.tokens import load_tokens

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    generations = read_rows(GENERATIONS, job.inputs["sweep"], job.layers).join(missing, on=GENERATIONS.keys, how="semi")
    lens = read_rows(LOGIT_LENS, job.inputs["logit_lens"], job.layers)
    counts = gen_success(generations, lens, load_tokens(job.model_folder()), job.experiment.gen_success.tokens)
    yield from counts.partition_by("layer")


complete_step(job, "gen_success", compute)
