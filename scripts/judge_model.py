"""Ratings by a transformers model on the GPU."""

import json
from collections.abc import Iterator

import polars as pl
from common import complete_step, judged_rows, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import device

    from saesteer.judge.askers import local_model_asker
    from saesteer.judge.rate_llm import judge_generations

    generations, concepts, instructions = judged_rows(job, missing)
    weights = json.loads(job.input("judge_model").read_text(encoding="utf-8"))["digest"]
    asker = local_model_asker(job.experiment.judge, job.model_folder("judge_model"), device(), weights)
    yield from judge_generations(
        generations, concepts, instructions, asker, job.outputs["manifest"].parent / "answers", job.workflow.part_seconds
    )


complete_step(job, "judge", compute)
