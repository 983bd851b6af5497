"""Ratings by a transformers model on the GPU."""

from collections.abc import Iterator

import polars as pl
from common import complete_step, judged_rows, open_job

job = open_job(snakemake)


def compute(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from gpu import device

    from saesteer.judge.local_model import local_model_asker
    from saesteer.judge.rate_llm import judge_generations

    generations, concepts, instructions = judged_rows(job, missing)
    asker = local_model_asker(job.experiment.judge, job.model_folder("judge_model"), device())
    yield from judge_generations(
        generations, concepts, instructions, asker, job.outputs["manifest"].parent / "answers", job.workflow.part_seconds
    )


complete_step(job, "judge", compute)
