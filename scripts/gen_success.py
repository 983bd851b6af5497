"""GenSuccess@1, 5 and 20 of each text of a single feature."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, missing_texts, open_job

from saesteer.analysis.gen_success import gen_success, with_feature
from saesteer.core.store import read_rows
from saesteer.core.tables import FITS, LOGIT_LENS
from saesteer.core.tokens import load_tokens

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    fits = read_rows(FITS, job.inputs.get("fits", []), job.layers, ["features"])
    texts = with_feature(missing_texts(job, missing, ["text", "token_ids", "reason"]), fits)
    lens = read_rows(LOGIT_LENS, job.inputs["logit_lens"], job.layers)
    counts = gen_success(texts, lens, load_tokens(job.model_folder()), job.experiment.gen_success.tokens)
    yield from counts.partition_by("layer")


complete_step(job, "gen_success", compute)
