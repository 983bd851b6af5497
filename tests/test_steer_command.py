"""`saesteer steer`: the texts are those of `saesteer.steer`, and grow token by token."""

# ruff: noqa: F811 (fixtures of another file)

import io
import itertools
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from engine_models import shipped_model, shipped_sae
from report_folders import swept
from rich.console import Console
from test_evaluation import NAME, comparison, finished_fits  # noqa: F401
from typer.testing import CliRunner

from saesteer import api
from saesteer.analysis.best_factor import recommended_factors
from saesteer.analysis.tables import STEERING
from saesteer.cli import app
from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id
from saesteer.engine.generate import steered_texts
from saesteer.engine.generations import feature_texts
from saesteer.run import Run
from saesteer.serve.model import Model
from saesteer.serve.requests import SteeringField
from saesteer.serve.terminal import Request, heading, request_of, show, texts_by_token
from saesteer.steps.generations import sampling_of

PROMPT = "I think that"


def test_texts_grow_into_those_of_the_library(comparison: Run) -> None:
    request = Request(6, 7, (1.5, 3.0), PROMPT, n_samples=2, seed=4, max_tokens=12)
    steps = list(texts_by_token(comparison, request))
    sampling = replace(sampling_of(comparison.experiment), max_new_tokens=12)
    expected = api.steer(shipped_model(), shipped_sae(6), [7], [0, 1.5, 3], [PROMPT], n_samples=2, sampling=sampling, seed=4)
    assert steps[-1] == expected["text"].to_list()
    assert len(set(steps[-1])) == 6
    assert len(steps) == max(expected["n_tokens"])
    for before, after in itertools.pairwise(steps):
        assert all(new.startswith(old) for old, new in zip(before, after, strict=True))


def test_several_features_steer_at_once(comparison: Run) -> None:
    """Each at its factor, times those given; one feature with its factor is that feature as ever; command, library, page agree."""
    request = request_of(comparison, "6/7*1.5,6/9*-2", [1.0, 2.0], PROMPT, 2, seed=4, max_tokens=12)
    assert "features 6/7*1.5,9*-2: unsteered, and steered at factor 1 and 2" in heading(comparison, request)
    sampling = replace(sampling_of(comparison.experiment), max_new_tokens=12)
    given = {"n_samples": 2, "sampling": sampling, "seed": 4}
    lm, sae = shipped_model(), shipped_sae(6)
    expected = api.steer(lm, sae, {7: 1.5, 9: -2}, [0, 1, 2], [PROMPT], **given)
    assert list(texts_by_token(comparison, request))[-1] == expected["text"].to_list()
    assert expected["feature"].unique().to_list() == ["7*1.5,9*-2"]
    of_page = SteeringField(features=[{"layer": 6, "feature": 7, "factor": 1.5}, {"layer": 6, "feature": 9, "factor": -2}])
    model = Model(comparison, lm, {6: sae})
    setting = model.setting(of_page)
    texts = model.texts(PROMPT, setting, sampling, 2, 4)
    rows = {"row": [0, 1], "intervention": 0, "prompt": 0, "factor": setting.factor, "stream": [text.stream for text in texts]}
    frame = pl.DataFrame(rows, schema_overrides={"row": pl.UInt32, "stream": pl.UInt64})
    written = pl.concat(steered_texts(lm, sae, 6, frame, [setting.intervention], [texts[0].prompt], sampling))
    assert written["text"].to_list() == expected.filter(factor=1.0)["text"].to_list(), "the page writes the same"
    twice = api.steer(lm, sae, {7: 3, 9: -4}, [1], [PROMPT], **given)
    assert twice["text"].to_list() == expected.filter(factor=2.0)["text"].to_list()
    greedy = replace(sampling, temperature=0.0)
    alone = [api.steer(lm, sae, of, [1.5], [PROMPT], sampling=greedy)["text"][0] for of in ([7], {7: 1}, {7: 0.5, 9: 0, 3: 0})]
    assert alone[0] == alone[1] != alone[2]
    assert request_of(comparison, "6/7*1.5", [], PROMPT, 1) == request_of(comparison, "6/7", [1.5], PROMPT, 1)
    with pytest.raises(ValueError, match="nothing to steer"):
        api.steer(lm, sae, {}, [1], [PROMPT])


def test_they_stand_side_by_side() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    show([["one"], ["one two"]], Request(6, 7, (), PROMPT), console)
    wide = Console(width=100, record=True, file=io.StringIO())
    show([["a1", "a2", "b1", "b2", "c1", "c2"]], Request(6, 7, (1.5, 3.0), PROMPT, n_samples=2), wide)
    for number, line in enumerate((line for line in wide.export_text().splitlines() if PROMPT in line), start=1):
        assert [word[0] for word in line.split() if word.endswith(str(number))] == ["t", "t", "t"], line
    assert "one two" in console.export_text()
    replying = Console(width=100, record=True, file=io.StringIO())
    show([["one two"]], Request(6, 7, (), PROMPT), replying, "chat")
    assert f"{PROMPT}one" not in (reply := replying.export_text())
    assert [line.split()[1] for line in reply.splitlines() if "I think" in line or "two" in line] == ["I", "one"]


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
    said, table = made.output.split("\n", 1)
    assert said == f"{NAME}, feature 6/7: unsteered, and steered at factor 1.5 and 3; 3 texts of each."
    assert [table.count(title) for title in ("unsteered", "factor 1.5", "factor 3")] == [1, 1, 1]
    assert table.count(PROMPT) == 9
    assert heading(comparison, Request(6, 7, (1.5,), PROMPT, n_samples=1)).endswith("; 1 text of each.")
    made = CliRunner().invoke(app, ["steer", NAME, "6/7", PROMPT])
    assert made.output == f"{NAME} has not steered with feature 6/7, so no factor is recommended: name one (--factor)\n"


def test_what_is_done_with_a_feature_may_be_chosen(comparison: Run) -> None:
    sae, prompts = shipped_sae(6), {text_id(PROMPT): PROMPT}
    made = {}
    for edit, factors in (("ablation", []), ("projection", []), ("clamp", [-20.0]), ("decay", [20.0])):
        request = request_of(comparison, "6/7", factors, PROMPT, 1, 4, 12, edit)
        sampling = replace(sampling_of(comparison.experiment), max_new_tokens=12)
        rows = pl.DataFrame(
            [{"feature": 7, "factor": factor, "prefix_id": text_id(PROMPT), "sample": 0} for factor in request.every_factor],
            schema_overrides={"feature": pl.UInt32, "sample": pl.UInt32},
        )
        expected = pl.concat(feature_texts(shipped_model(), sae, 6, rows, prompts, sampling, 4, edit=edit))
        expected = rows.join(expected, on=["feature", "factor", "prefix_id", "sample"], maintain_order="left")
        made[edit] = list(texts_by_token(comparison, request))[-1]
        assert made[edit] == expected["text"].to_list()
        assert len(made[edit]) == 2
    assert len({texts[0] for texts in made.values()}) == 1, "the unsteered text is the model's"
    said = [heading(comparison, request_of(comparison, "6/7", [], PROMPT, 1, edit=edit)) for edit in ("ablation", "projection")]
    assert "unsteered, and ablated; 1 text" in said[0]
    assert "projected out at factor 1; 1 text" in said[1]
    with pytest.raises(SettingsError, match="an ablation has no strength"):
        request_of(comparison, "6/7", [2.0], PROMPT, 1, edit="ablation")
    with pytest.raises(SettingsError, match="no strength of a clamp is recommended"):
        request_of(comparison, "6/7", [], PROMPT, 1, edit="clamp")


def test_without_a_factor_it_is_the_recommended_one(tmp_path: Path) -> None:
    run = swept(tmp_path, 1, 2)
    (layer, feature, factor, chosen_by), *_ = recommended_factors(run.summary(STEERING), run.sweep.best_factor).rows()
    request = request_of(run, f"{layer}/{feature}", [], PROMPT, 3)
    assert (request.every_factor, request.n_samples) == (["0", factor], 3)
    assert f"steered at factor {factor} (recommended: chosen by {chosen_by})" in heading(run, request)


def test_without_a_prompt_it_is_the_experiments_first(comparison: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = comparison.prompts().values()
    assert request_of(comparison, "6/7", [1.0], None, 3) == request_of(comparison, "6/7", [1.0], first, 3)
    monkeypatch.setattr(Run, "prompts_if_any", lambda run: {})
    with pytest.raises(SettingsError, match=f"{NAME} has no prompts of its own: name one, saesteer steer {NAME} 6/7 PROMPT"):
        request_of(comparison, "6/7", [1.0], None, 3)


@pytest.mark.parametrize(
    ("feature", "prompt", "message"),
    [
        ("6/1024", PROMPT, "feature 6/1024 does not exist"),
        ("5/7", PROMPT, "there is no layer '5' here"),
        ("6/7", "a long one " * 60, "at most 64"),
        ("sea", PROMPT, "'sea' is not LAYER/FEATURE, e.g. 6/548"),
        ("6-548", PROMPT, "'6-548' is not LAYER/FEATURE, e.g. 6/548. Did you mean 6/548?"),
    ],
)
def test_what_cannot_be_steered_is_refused_in_a_line(comparison: Run, feature: str, prompt: str, message: str) -> None:
    made = CliRunner().invoke(app, ["steer", NAME, feature, prompt, "--factor", "1"])
    assert (made.exit_code, message in made.output) == (1, True), made.output
