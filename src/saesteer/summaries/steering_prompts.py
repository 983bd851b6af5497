"""Each concept's steering prompts, written by the language model that the experiment names (P4)."""

import os
from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import COMPARED_CONCEPTS, STEERING_PROMPTS
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment
from saesteer.summaries.summary import Summary


def exists(experiment: Experiment) -> bool:
    return isinstance(experiment, Comparison) and experiment.methods.prompt_writer is not None


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.judge.batch import endpoint_asker
    from saesteer.judge.prompt_writing import written_prompts

    concepts = dict(run.summary(COMPARED_CONCEPTS).select("concept_id", "concept").iter_rows())
    endpoint = run.comparison.methods.prompt_writer
    assert endpoint is not None
    writer = endpoint_asker(endpoint, os.environ, run.data)
    prompts = written_prompts(concepts, writer, run.data / "steering_prompts/answers", run.workflow.part_seconds)
    return {STEERING_PROMPTS.name: prompts}


SUMMARY = Summary((STEERING_PROMPTS,), exists, compute)
