"""P1's input score of each feature."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, open_job

from saesteer.analysis.input_score import input_scores
from saesteer.core.store import read_rows
from saesteer.core.tables import LOGIT_LENS, RECORDS
from saesteer.core.tokens import load_tokens

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    settings = job.experiment.input_score
    records = read_rows(RECORDS, job.inputs["records"], job.layers).join(missing, on=["layer", "feature"], how="semi")
    lens = read_rows(LOGIT_LENS, job.inputs["logit_lens"], job.layers)
    scores = input_scores(records, lens, load_tokens(job.model_folder()), settings.tokens, settings.min_records)
    yield from scores.partition_by("layer")


complete_step(job, "input_score", compute)
