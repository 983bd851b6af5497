"""Concept and fluency ratings of each generation."""

import json
from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import CONCEPTS, GENERATIONS, PERPLEXITY
from saesteer.core.tokens import load_tokens
from saesteer.world.oracle_judge import load_oracle
from saesteer.world.oracle_rating import rate

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    oracle = load_oracle(job.experiment.judge.oracle)
    topics = json.loads(job.input("topics_file").read_text(encoding="utf-8"))
    concepts = read_rows(CONCEPTS, job.inputs["concepts"], job.layers)
    tokens = load_tokens(job.model_folder())
    for layer, rows in by_layer(missing):
        generations = read_rows(GENERATIONS, job.inputs["sweep"], [layer], ["text"]).join(rows, on=GENERATIONS.keys, how="semi")
        perplexity = read_rows(PERPLEXITY, job.inputs["perplexity"], [layer])
        yield rate(generations, perplexity, concepts, oracle, topics, tokens)


complete_step(job, "judge", compute)
