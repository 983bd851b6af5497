"""The texts in which each feature is most active, from the cached activations."""

from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.analysis.records import top_records
from saesteer.core.store import read_rows
from saesteer.core.tables import ACTIVATIONS
from saesteer.core.tokens import load_tokens
from saesteer.sources.corpus import read_texts

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    texts = read_texts(job.input("texts_file"), job.model_folder(), job.experiment.model.bos, job.experiment.records.max_tokens)
    tokens = load_tokens(job.model_folder())
    for layer, rows in by_layer(missing):
        activations = read_rows(ACTIVATIONS, job.inputs["activations"], [layer])
        yield top_records(activations, texts, rows["feature"].to_list(), job.experiment.records.n_records, tokens)


complete_step(job, "records", compute)
