"""`saesteer recommend`: what is missing is computed, rows go to and fro, and what cannot be answered is refused in a sentence."""

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner
from workflow_folder import Folder

from saesteer.cli import app

pytestmark = pytest.mark.slow


def ask(folder: Folder, *arguments: str) -> tuple[int, str, str]:
    for name in ("Snakefile", "rules", "scripts", "src"):  # a recommendation runs in a clone
        if not (folder.path / name).exists():
            (folder.path / name).symlink_to(folder.root / name)
    done = folder.call("saesteer", "recommend", *arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def micro(finished: Folder, tmp_path: Path) -> Folder:
    return finished.copy(tmp_path / "copy")


def labels(folder: Folder) -> list[str]:
    features = pl.read_parquet(folder.path / "data/micro/tables/features.parquet")
    return sorted(features["concept"].drop_nulls().unique())


@dataclass(frozen=True)
class Answered:
    folder: Folder
    concept: str
    parts_before: dict[str, set[Path]]
    said: str


@pytest.fixture(scope="module")
def answered(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """A labelled concept, answered once."""
    folder = finished.copy(tmp_path_factory.mktemp("answered") / "copy")
    concept, before = labels(folder)[0], folder.parts()
    code, said, log = ask(folder, "micro", concept)
    assert code == 0, log
    return Answered(folder, concept, before, said)


def test_a_labelled_concept_needs_ratings_only_and_a_second_time_nothing(answered: Answered):
    folder, concept, said = answered.folder, answered.concept, answered.said
    features = pl.read_parquet(folder.path / "data/micro/tables/features.parquet").filter(concept=concept)
    (file,) = (folder.path / "data/derived").glob("micro-recommend-*.yaml")
    assert not list((folder.path / "config").rglob("*-recommend-*"))
    listed = yaml.safe_load(file.read_text())["features"]["features"]
    assert (
        sorted((layer, feature) for layer, numbers in listed.items() for feature in numbers)
        == features.select("layer", "feature").sort("layer", "feature").rows()
    )
    assert said.startswith(f"micro: {concept}\n")
    assert all(f"│ {layer}/{feature} " in said for layer, feature in features.select("layer", "feature").iter_rows())
    # The derived experiment's texts are the experiment's own; only ratings and concepts are new, and lie in both stores.
    after = folder.parts()
    assert {step for step in after if after[step] != answered.parts_before[step]} == {"concepts", "judge"}
    code, again, log = ask(folder, "micro", concept)
    assert (code, again) == (0, said)
    assert "snakemake" not in (said + log).lower()
    assert "to compute" not in (folder.path / f"logs/{file.stem}/snakemake.log").read_text()


def test_what_was_derived_is_an_experiment_like_any_other(answered: Answered):
    (file,) = (answered.folder.path / "data/derived").glob("micro-recommend-*.yaml")
    code, printed = answered.folder.run("-n", experiment=file.stem)
    assert code == 0, printed
    assert answered.folder.call("saesteer", "gc", file.stem).returncode == 1  # its figures were not made
    every = answered.folder.call("saesteer", "gc")
    assert (every.returncode, f"{file.stem} is left out" in every.stderr) == (0, True)


def test_from_python_it_is_the_same_answer(answered: Answered):
    program = f"""
import saesteer
from rich.console import Console
from saesteer.report.recommend import show
answer = saesteer.recommend("micro", {answered.concept!r})
assert answer.ordinary_loss.n == 32, answer.ordinary_loss
assert answer.texts.height == answer.candidates.height * answer.texts["factor"].n_unique() * answer.texts["prefix_id"].n_unique()
show(answer, Console())
"""
    done = answered.folder.call("python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout == answered.said


def test_what_points_to_no_feature_is_refused_with_the_labels(micro: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(micro.path)
    result = CliRunner().invoke(app, ["recommend", "micro", "zeppelin"])
    assert result.exit_code == 1
    assert "none of the 8 features of micro is labelled with, explained by, fires on or promotes 'zeppelin'" in result.output
    assert labels(micro)[0] in result.output


def test_an_experiment_without_a_judge_is_refused(micro: Folder, monkeypatch: pytest.MonkeyPatch):
    """One without scores: test_cli_errors.py."""
    micro.edit("micro", judge={"kind": "none"})
    monkeypatch.chdir(micro.path)
    result = CliRunner().invoke(app, ["recommend", "micro", "sea"])
    assert result.exit_code == 1
    assert "a recommendation needs ratings" in result.output


@pytest.mark.exhaustive
def test_prompting_and_a_vector_are_tried_beside_the_features(micro: Folder):
    concept = labels(micro)[0]
    code, said, log = ask(micro, "micro", concept, "--comparison", "micro-methods", "--output", "answer.md")
    assert (code, said) == (0, ""), log
    page = (micro.path / "answer.md").read_text()
    # A model that continues text is prompted with labelled texts.
    assert re.search(r"^- prompting from \d+ labelled texts at factor \d", page, re.MULTILINE)
    assert re.search(r"^- diffmean from \d+ labelled texts at layer 6, factor \d", page, re.MULTILINE)
