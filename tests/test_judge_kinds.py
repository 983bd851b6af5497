"""Each kind of judge says what it is, and one more kind takes its settings and a class."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

from saesteer.analysis.label_evidence import Namer
from saesteer.run import Run
from saesteer.settings import EndpointJudge, ExplanationSettings, Settings, SettingsError, Workflow, load_experiment
from saesteer.settings.steps import JudgeSettings
from saesteer.steps import judges
from saesteer.steps.judges import JudgeKind, Rated, judge_of
from saesteer.steps.step import steps_of
from saesteer.workflow import preflight
from saesteer.workflow.checks import check_contents

EXPERIMENTS = Path(__file__).parents[1] / "config/experiments"


class LengthJudge(Settings):
    kind: Literal["length"] = "length"
    most: int = 20


class LengthKind(JudgeKind):
    """Rates texts by their length."""

    pins = ("topics",)
    rating_modules = naming_modules = ("analysis.concepts",)

    def rating_values(self) -> dict[str, Any]:
        return {"most": self.settings.most}

    def ratings(self, run: Run, rated: Rated) -> Iterator[pl.DataFrame]:
        yield rated.texts.with_columns(judge_score=(pl.col("text").str.len_chars() < self.settings.most).cast(pl.Float64))

    @contextmanager
    def namer(self, run: Run) -> Iterator[Namer]:
        raise NotImplementedError

    def check_contents(self) -> None:
        if self.settings.most < 1:
            raise SettingsError("judge.most: texts have characters")


def test_one_more_kind_is_its_settings_and_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "KINDS", {**judges.KINDS, LengthJudge: LengthKind})
    changes = {"judge": LengthJudge(), "explanations": ExplanationSettings()}
    experiment = load_experiment("tiny", EXPERIMENTS).model_copy(update=changes)
    steps = steps_of(experiment)
    assert (steps["judge"].inputs, steps["judge"].settings) == (("topics", "concepts", "generations"), {"kind": "length", "most": 20})
    assert (steps["judge"].runs_model, steps["explanations"].inputs[0]) == (False, "topics")
    subject = preflight._Subject("tiny", experiment, Workflow(experiments=("tiny",)), {}, {})
    assert preflight._judge(subject) == "kind length: costs nothing"
    judge = judge_of(experiment)
    assert judge is not None
    (rows,) = judge.ratings(Run(Workflow(experiments=("tiny",)), "tiny", experiment), Rated(pl.DataFrame({"text": ["a", "b" * 30]}), {}))
    assert rows["judge_score"].to_list() == [1.0, 0.0]
    with pytest.raises(SettingsError, match=r"judge\.most"):
        check_contents(experiment.model_copy(update={"judge": LengthJudge(most=0)}))


def test_every_kind_of_settings_but_none_has_a_class() -> None:
    named = {settings.__name__ for settings in JudgeSettings.__origin__.__args__}
    assert {settings.__name__ for settings in judges.KINDS} == named - {"NoJudge"}


def test_the_check_says_what_an_endpoint_will_cost() -> None:
    """By hand: 240 features x 15 factors x 3 prefixes x 2 aspects; and a name and 20 texts of each feature."""
    prices = {"base_url": "http://h/v1", "model": "m", "key_variable": None, "usd_per_million_output_tokens": 1000.0, "max_usd": 5.0}
    changes = {"judge": EndpointJudge(kind="endpoint", n_prefixes=3, **prices), "explanations": ExplanationSettings()}
    experiment = load_experiment("tiny", EXPERIMENTS).model_copy(update=changes)
    subject = preflight._Subject("tiny", experiment, Workflow(experiments=("tiny",)), {}, {})
    said = preflight._judge(subject)
    assert said.startswith("m: 21,600 requests, about 1296.0000 USD")  # of 60 tokens each
    assert said.endswith("limit 5 USD for all jobs and runs")
    assert preflight._labels(subject).startswith("m: 5,040 requests, about 302.4000 USD")
