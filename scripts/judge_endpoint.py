"""Ratings by a language model behind an OpenAI-compatible address."""

import os
from collections.abc import Iterator

import polars as pl
from common import complete_step, judged_rows, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.judge.askers import endpoint_asker
    from saesteer.judge.rate_llm import judge_generations

    generations, concepts, instructions = judged_rows(job, missing)
    asker, answers = endpoint_asker(job.experiment.judge, os.environ), job.outputs["manifest"].parent / "answers"
    yield from judge_generations(generations, concepts, instructions, asker, answers, job.workflow.part_seconds)


complete_step(job, "judge", compute)
