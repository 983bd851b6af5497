"""Ratings of steered texts, by the judge that the experiment names."""

import json
import os
from collections.abc import Iterator

import polars as pl
from common import by_layer, complete_step, open_job

from saesteer.core.store import read_rows
from saesteer.core.tables import ASKED_CONCEPTS, STEERED, STEERED_PERPLEXITY, read_summary
from saesteer.settings import EndpointJudge, OracleJudge
from saesteer.world.steered_rating import judge_steered, rate_steered

job = open_job(snakemake)
judge = job.experiment.judge


def by_oracle(steered: pl.DataFrame, asked: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.core.tokens import load_tokens
    from saesteer.world.oracle_judge import load_oracle

    oracle, tokens = load_oracle(judge.oracle), load_tokens(job.model_folder())
    topics = json.loads(job.input("topics_file").read_text(encoding="utf-8"))
    for layer, rows in by_layer(steered):
        losses = read_rows(STEERED_PERPLEXITY, job.inputs["steered_perplexity"], [layer])
        yield rate_steered(rows, losses, asked, oracle, topics, tokens)


def by_language_model(steered: pl.DataFrame, asked: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.judge.askers import endpoint_asker, local_model_asker

    if isinstance(judge, EndpointJudge):
        asker = endpoint_asker(judge, os.environ)
    else:
        from gpu import device

        weights = json.loads(job.input("judge_model").read_text(encoding="utf-8"))["digest"]
        asker = local_model_asker(judge, job.model_folder("judge_model"), device(), weights)
    instructions = job.prefixes() if job.experiment.model.prompt_format == "chat" else None
    answers = job.outputs["manifest"].parent / "answers"
    yield from judge_steered(steered, asked, instructions, asker, answers, job.workflow.part_seconds)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    steered = read_rows(STEERED, job.inputs["steered"], job.layers, ["text"]).join(missing, on=STEERED.keys, how="semi")
    asked = read_summary(ASKED_CONCEPTS, job.input("asked_concepts"))
    yield from (by_oracle if isinstance(judge, OracleJudge) else by_language_model)(steered, asked)


complete_step(job, "steered_judge", compute)
