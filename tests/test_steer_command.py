"""`saesteer steer`: the texts are those of `saesteer.steer`, and grow token by token."""

# ruff: noqa: F811 (fixtures of another file)

import io
import itertools
from dataclasses import replace

import pytest
from engine_models import shipped_model, shipped_sae
from rich.console import Console
from test_evaluation import NAME, comparison, finished_fits  # noqa: F401
from typer.testing import CliRunner

from saesteer import api
from saesteer.cli import app
from saesteer.core.errors import SettingsError
from saesteer.report.terminal import Request, request_of, show, texts_by_token
from saesteer.run import Run
from saesteer.steps.generations import sampling_of

PROMPT = "I think that"


def test_texts_grow_into_those_of_the_library(comparison: Run) -> None:
    request = Request(6, 7, (1.5, 3.0), PROMPT, seed=4, max_tokens=12)
    steps = list(texts_by_token(comparison, request))
    sampling = replace(sampling_of(comparison.experiment), max_new_tokens=12)
    expected = api.steer(shipped_model(), shipped_sae(6), [7], [0, 1.5, 3], [PROMPT], sampling=sampling, seed=4)
    assert steps[-1] == expected["text"].to_list()
    assert len(set(steps[-1])) == 3
    assert len(steps) == max(expected["n_tokens"])
    for before, after in itertools.pairwise(steps):
        assert all(new.startswith(old) for old, new in zip(before, after, strict=True))


def test_they_stand_side_by_side() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    show([["one"], ["one two"]], Request(6, 7, (), PROMPT), console)
    wide = Console(width=100, record=True, file=io.StringIO())
    show([["first", "second", "third"]], Request(6, 7, (1.5, 3.0), PROMPT), wide)
    (line,) = [line for line in wide.export_text().splitlines() if "first" in line]
    assert line.index("first") < line.index("second") < line.index("third")
    assert "one two" in console.export_text()


def test_a_models_text_does_not_command_the_terminal() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    show([["\x1b[2Jgone \x07[red]red[/red]\x9b31m"]], Request(6, 7, (), PROMPT), console)
    shown = console.export_text()
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "\x07" not in shown
    assert "[red]red[/red]" in shown


def test_the_command(comparison: Run) -> None:
    made = CliRunner().invoke(app, ["steer", NAME, "6/7", PROMPT, "--factor", "1.5", "--factor", "3", "--max-tokens", "4"])
    assert made.exit_code == 0, made.output
    assert [made.output.count(title) for title in ("unsteered", "factor 1.5", "factor 3")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("6/1024", PROMPT), "feature 6/1024 does not exist"),
        (("5/7", PROMPT), "there is no layer '5' here"),
        (("6/7", "a long one " * 60), "at most 64"),
    ],
)
def test_what_cannot_be_steered_is_refused_in_a_line(comparison: Run, arguments: tuple[str, str], message: str) -> None:
    made = CliRunner().invoke(app, ["steer", NAME, *arguments, "--factor", "1"])
    assert made.exit_code == 1
    assert message in made.output


def test_what_is_no_feature_is_refused() -> None:
    with pytest.raises(SettingsError, match="'sea' is not LAYER/FEATURE, e.g. 6/548"):
        request_of("sea", [1.0], PROMPT)
    with pytest.raises(SettingsError, match="'6-548' is not LAYER/FEATURE, e.g. 6/548. Did you mean 6/548?"):
        request_of("6-548", [1.0], PROMPT)
