"""What a step's plan is: its table, the module that computes its rows, its keys, and what the rows depend on besides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saesteer.core.tables import Table
from saesteer.judge.rubric import rubric_digest
from saesteer.settings import EndpointJudge, Experiment, LanguageModelJudge, LocalModelJudge

Axes = dict[str, Sequence[Any]]
Files = Mapping[str, Path]
"""The file behind each name of a job's inputs: pins, manifests, `prefixes_file`, `asked_concepts`."""

FILES_OF_KEYS = ("prefixes_file", "asked_concepts")
"""Inputs that keys are read from."""


@dataclass(frozen=True)
class StepPlan:
    table: Table
    module: str
    """Module that computes the rows; its ALGORITHM_VERSION is part of the fingerprint."""
    axes: Callable[[Experiment, int, Files], Axes]
    """(experiment, layer, files) -> the values of each key column."""
    settings: Any
    """JSON value of the settings that rows depend on."""
    inputs: tuple[str, ...]
    """What the rows depend on besides: names of pins, `saes`, and earlier steps."""


def language_model_judge(experiment: Experiment, judge: LanguageModelJudge) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings and pins that a language model's ratings depend on."""
    settings: dict[str, Any] = {
        "rubric": rubric_digest(),
        **judge.model_dump(mode="json", include={"kind", "max_tokens", "seed"}),
        "prompt_format": experiment.model.prompt_format,
    }
    if isinstance(judge, EndpointJudge):
        return {**settings, "model": judge.model}, ()
    assert isinstance(judge, LocalModelJudge)
    return {**settings, "dtype": judge.model.dtype}, ("judge_model",)
