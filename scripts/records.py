"""The texts in which each feature is most active, from the cached activations."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.records import top_records
from saesteer.store import read_rows
from saesteer.tables import ACTIVATIONS
from saesteer.tokens import load_tokens

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    texts = pl.read_parquet(job.input("texts_file"), columns=["text_id", "token_ids"])
    tokens = load_tokens(job.experiment.model.path)
    for layer, rows in by_layer(missing):
        activations = read_rows(ACTIVATIONS, job.inputs["activations"], [layer])
        yield top_records(activations, texts, rows["feature"].to_list(), job.experiment.records.n_records, tokens)


complete_step(job, "records", compute)
