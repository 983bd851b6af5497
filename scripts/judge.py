"""Ratings of texts, by the judge that the experiment names."""

import json
import os
from collections.abc import Iterator

import polars as pl
from common import complete_step, missing_texts, open_job

from saesteer.analysis.concepts import with_concept
from saesteer.core.store import read_rows
from saesteer.core.tables import ASKED_CONCEPTS, CONCEPTS, PERPLEXITY, read_summary
from saesteer.settings import EndpointJudge, OracleJudge

job = open_job(snakemake)
judge = job.experiment.judge


def by_oracle(texts: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.world.rating import rate

    oracle, topics = job.world_judge(), job.topics()
    for (layer,), rows in texts.group_by("layer", maintain_order=True):
        yield rate(rows, read_rows(PERPLEXITY, job.inputs["perplexity"], [layer]), oracle, topics, job.experiment.rates_blank_texts)


def by_language_model(texts: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.judge.askers import endpoint_asker, local_model_asker
    from saesteer.judge.rate_llm import judge_texts

    if isinstance(judge, EndpointJudge):
        asker = endpoint_asker(judge, os.environ, job.outputs["manifest"].parents[1])
    else:
        from gpu import available_device  # the module also keeps Hugging Face off the network

        weights = json.loads(job.input("judge_model").read_text(encoding="utf-8"))["digest"]
        asker = local_model_asker(judge, job.model_folder("judge_model"), available_device(), weights)
    instructions = job.prefixes() if job.experiment.model.prompt_format == "chat" else None
    answers, blank = job.outputs["manifest"].parent / "answers", job.experiment.rates_blank_texts
    yield from judge_texts(texts, instructions, asker, answers, job.workflow.part_seconds, blank)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    if job.experiment.until == "methods":
        concepts = read_summary(ASKED_CONCEPTS, job.input("asked_concepts"))
    else:
        concepts = read_rows(CONCEPTS, job.inputs["concepts"], job.layers)
    texts = with_concept(missing_texts(job, missing, ["text", "reason"]), concepts)
    yield from (by_oracle if isinstance(judge, OracleJudge) else by_language_model)(texts)


complete_step(job, "judge", compute)
