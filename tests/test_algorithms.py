"""The lock of the algorithms: code that rows depend on changes with its version, or with somebody's word that no row changes."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from test_code_digest import as_package, clear
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.settings.registry import METHODS
from saesteer.workflow import algorithms
from saesteer.workflow.algorithms import check_lock, write_lock
from saesteer.workflow.code_digest import CodeError

ROOT = Path(__file__).parents[1]
FILES = {
    "score.py": "from pack.helper import twice\n\nALGORITHM_VERSION = 3\n\n\ndef score(x):\n    return twice(x) + 1\n",
    "helper.py": "def twice(x):\n    return 2 * x\n",
    "means.py": "def diffmean(x):\n    return x\n\n\ndef caa(x):\n    return 2 * x\n",
    "unused.py": "X = 1\n",
    "__init__.py": "",
    "workflow/__init__.py": "",
    "workflow/plan.py": "from pack.score import score\n",
    "steps/__init__.py": "",
    "steps/score.py": "from pack.score import score\n\n\ndef compute(x):\n    return score(x[1:])\n",
}
VERSIONS = {"diffmean": 1, "caa": 1}

Edit = Callable[[str, str, str], None]


def set_methods(monkeypatch: pytest.MonkeyPatch, versions: dict[str, int]) -> None:
    rows = [replace(row, fitted_by=f"means.{row.name}", version=versions[row.name]) for row in METHODS if row.name in versions]
    monkeypatch.setattr(type(rows[0]), "module", "pack.means")
    monkeypatch.setattr(algorithms, "METHODS", rows)


def set_column(monkeypatch: pytest.MonkeyPatch, score: Column) -> None:
    monkeypatch.setattr(algorithms, "step_tables", lambda: {"score": Table("score", FEATURE_KEYS, {**OF_FEATURE, "score": score})})


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Replaces text in a module of a small package, whose code is locked."""
    package = tmp_path / "pack"
    for name, text in FILES.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(algorithms, "PACKAGE", package)
    as_package(package, monkeypatch)
    monkeypatch.setattr(algorithms, "LOCK", package / "algorithms.lock")
    algorithms.LOCK.write_text("{}")
    set_methods(monkeypatch, VERSIONS)
    set_column(monkeypatch, Column(pl.Float64, "a score"))
    clear()
    write_lock()

    def replaced(name: str, old: str, new: str) -> None:
        clear()
        path = package / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return replaced


def refused(module: str, change: str, *keep: str) -> None:
    """Both the check and the command refuse the code, name the module and leave the lock alone."""
    before = algorithms.LOCK.read_bytes()
    with pytest.raises(CodeError, match=rf"\n  {module} {change}(.*\n)+If rows mean something else now, raise ALGORITHM_VERSION"):
        check_lock()
    with pytest.raises(CodeError, match=rf"\n  {module} {change}"):
        write_lock(keep)
    assert algorithms.LOCK.read_bytes() == before


def locked(module: str, change: str, *keep: str) -> None:
    """The check refuses the code until the command has locked it."""
    with pytest.raises(CodeError, match=rf"\n  {module} {change}"):
        check_lock()
    assert list(write_lock(keep)) == [module]
    check_lock()


def test_what_is_locked(edit: Edit) -> None:
    """A line a module, so that branches which change different ones merge."""
    lines = algorithms.LOCK.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["{", '"helper"', '"means"', '"score"', '"steps.score"', '"table score"', "}"]
    values = json.loads(algorithms.LOCK.read_text())
    assert {name: versions for name, (versions, _) in values.items()} == {
        "helper": {},
        "means": VERSIONS,
        "score": {"ALGORITHM_VERSION": 3},
        "steps.score": {},
        "table score": {},
    }
    assert write_lock() == {}


def test_another_column_is_locked_and_another_meaning_is_not(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    set_column(monkeypatch, Column(pl.Float64, "the score, in [0, 1]"))
    check_lock()
    for column in (Column(pl.Float32, "a score"), Column(pl.Float32, "a score", "nothing is scored")):
        set_column(monkeypatch, column)
        refused("table score", "was edited")
        locked("table score", "was edited", "table score")


def test_an_edited_module_needs_a_higher_version(edit: Edit) -> None:
    edit("score.py", "+ 1", "+ 3")
    refused("score", "was edited")
    edit("score.py", "ALGORITHM_VERSION = 3", "ALGORITHM_VERSION = 4")
    locked("score", "has other versions")
    edit("score.py", "+ 3", "+ 5")
    refused("score", "was edited")
    refused("score", "was edited", "helper")
    locked("score", "was edited", "sc*")


def test_an_edited_helper_is_noticed(edit: Edit) -> None:
    edit("helper.py", "2 * x", "6 * x")
    refused("helper", "was edited")
    edit("score.py", "ALGORITHM_VERSION = 3", "ALGORITHM_VERSION = 4")
    refused("helper", "was edited")
    assert list(write_lock(["helper"])) == ["helper", "score"]


def test_an_edited_step_is_noticed(edit: Edit) -> None:
    """It says which rows a formula is given."""
    edit("steps/score.py", "x[1:]", "x")
    refused("steps.score", "was edited")
    locked("steps.score", "was edited", "steps.*")


def test_an_edited_method_needs_a_higher_version_in_the_table(edit: Edit, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("means.py", "return x", "return 3 * x")
    refused("means", "was edited")
    set_methods(monkeypatch, {"diffmean": 2, "caa": 1})
    locked("means", "has other versions")


def test_a_lower_version_is_never_locked(edit: Edit) -> None:
    edit("score.py", "ALGORITHM_VERSION = 3", "ALGORITHM_VERSION = 2")
    refused("score", "has a lower version", "*")


def test_a_module_that_comes_or_goes_is_named(edit: Edit) -> None:
    edit("unused.py", "X = 1", "ALGORITHM_VERSION = 1")
    locked("unused", "is not in it")
    edit("unused.py", "ALGORITHM_VERSION = 1", "X = 1")
    locked("unused", "is in it, but no row depends on such a module")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("score.py", "+ 1", "+ 1  # more"), ("helper.py", "    return", "    '''Double.'''\n    return"), ("unused.py", "X = 1", "X = 2")],
    ids=["a comment", "a docstring", "a module that no row depends on"],
)
def test_what_changes_no_row_is_not_asked_about(edit: Edit, name: str, old: str, new: str) -> None:
    edit(name, old, new)
    check_lock()


@pytest.mark.parametrize("text", [None, "{\n<<<<<<< HEAD\n"], ids=["missing", "with a conflict"])
def test_a_lock_that_cannot_be_read_is_not_taken_for_an_empty_one(edit: Edit, text: str | None) -> None:
    algorithms.LOCK.unlink()
    if text is not None:
        algorithms.LOCK.write_text(text)
    for command in (check_lock, write_lock):
        with pytest.raises(CodeError, match=r"algorithms\.lock cannot be read .*: take it from git"):
            command()


def test_every_module_with_a_version_and_every_method_is_in_the_lock() -> None:
    modules = algorithms.algorithms()
    files = {file for file in (ROOT / "src/saesteer").rglob("*.py") if "\nALGORITHM_VERSION = " in file.read_text(encoding="utf-8")}
    names = {".".join(file.relative_to(ROOT / "src/saesteer").with_suffix("").parts) for file in files}
    assert names == {name for name, (versions, _) in modules.items() if "ALGORITHM_VERSION" in versions}
    for row in METHODS:
        assert modules[row.module.removeprefix("saesteer.")][0][row.name] == row.version
    assert {"core.files", "engine.memory", "engine.quantised"} <= modules.keys()
    assert not {name for name in modules if name.split(".")[0] in ("workflow", "figures", "report", "sharing", "cli")}


@pytest.mark.parametrize("command", ["record", "push", "algorithms --check", "algorithms"])
def test_commands_refuse_code_that_is_not_locked(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else is looked at: the folder is empty."""
    now = algorithms.algorithms()
    monkeypatch.setattr(algorithms, "LOCK", tmp_path / "algorithms.lock")
    algorithms.LOCK.write_text(json.dumps(now | {"engine.cache": (now["engine.cache"][0], "another digest")}))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 1
    assert "  engine.cache was edited, and no version of it was raised\n" in result.output
    assert os.listdir(tmp_path) == ["algorithms.lock"]


def test_make_check_compares_the_lock() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ncheck:")[1].split("\n\n")[0]
    assert "\n\t$(BIN)/saesteer algorithms --check" in recipe
