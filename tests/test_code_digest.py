"""The digest of the code a job runs: what changes it and what does not."""

import ast
import functools
import shutil
from pathlib import Path

import pytest

from saesteer.core.modules import module_file
from saesteer.workflow import code_digest as module

SCRIPT = '"""A script."""\nfrom pack.workflow.job import open_job\nfrom pack.score import score\n\nscore(open_job())\n'
FILES = {
    "scripts/step.py": SCRIPT,
    "pack/workflow/job.py": "from pack.run import Run\nfrom pack.steps.one import step\n\ndef open_job():\n    return step(Run())\n",
    "pack/steps/__init__.py": "",
    "pack/steps/one.py": "def step(run):\n    return 1\n",
    "pack/run.py": "class Run:\n    folder = 1\n",
    "pack/hints.py": "Hint = int\n",
    "pack/__init__.py": "",
    "pack/room/__init__.py": "",
    "pack/workflow/__init__.py": "",
    "pack/score.py": """if TYPE_CHECKING:
    from pack.hints import Hint

ALGORITHM_VERSION = 3


def score(x):
    \'\'\'Score.\'\'\'
    from pack.room import late
    return late.double(x)
""",
    "pack/room/late.py": "from pack.room import shown, tables\n\ndef double(x):\n    return 2 * x  # twice\n",
    "pack/room/tables.py": "SCORES = dict(score=Column(Float64, 'a score', 'never scored'), n=Column(UInt32, 'texts'))\n",
    "pack/room/shown.py": "FIGURE = dict(caption='Scores.', panels=1)\n",
    "pack/unused.py": "X = 1\n",
    "pack/summaries/__init__.py": "",
    "pack/summaries/made.py": """from pack.summaries.rounded import rounded

SIZE = 3


def mean(rows):
    from pack.room.late import double
    return rounded(double(rows) / _size())


def _size():
    return SIZE


def total(rows):
    return sum(rows)
""",
    "pack/summaries/rounded.py": "def rounded(x):\n    return round(x)\n\n\ndef unused(x):\n    return x\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    as_package(tmp_path / "pack", monkeypatch)
    return tmp_path


def as_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the code of another package looked at."""
    monkeypatch.setattr(module, "PACKAGE", folder)
    monkeypatch.syspath_prepend(folder.parent)
    for name in CACHED:
        monkeypatch.setattr(module, name, functools.cache(getattr(module, name).__wrapped__))


CACHED = ("code_digest", "algorithm_versions", "_graph", "_pieces", "_text", "_digest")


def clear() -> None:
    """Forget what was read of files that a test changes."""
    for name in CACHED:
        getattr(module, name).cache_clear()


def digest(root: Path, *modules: str) -> str:
    clear()
    return module.code_digest(*modules, scripts=(root / "scripts/step.py",))


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("scripts/step.py", "score(open_job())", "score(open_job() + 1)", True),
        ("pack/workflow/job.py", "return step(Run())", "return step(Run()) + 1", False),  # what a job computes, not how
        ("pack/steps/one.py", "return 1", "return 2", False),
        ("pack/run.py", "folder = 1", "folder = 2", False),
        ("pack/hints.py", "int", "float", False),  # for type checkers
        ("pack/score.py", "double(x)", "double(x + 1)", True),
        ("pack/room/late.py", "2 * x", "3 * x", True),  # imported inside a function
        ("pack/room/__init__.py", "", "Y = 2\n", True),
        ("pack/room/tables.py", "Float64", "Float32", True),  # what a column holds
        ("pack/room/tables.py", ", 'never scored'", "", True),  # null is not allowed now
        ("pack/room/tables.py", "a score", "a number", False),
        ("pack/room/tables.py", "never scored", "not scored", False),
        ("pack/room/shown.py", "panels=1", "panels=2", True),
        ("pack/room/shown.py", "Scores.", "Scores by layer.", False),
        ("pack/unused.py", "X = 1", "X = 2", False),
        ("pack/room/late.py", "# twice", "# two times", False),
        ("pack/score.py", "'''Score.'''", "'''The score, in [0, 1].'''", False),
        ("scripts/step.py", '"""A script."""', '"""Another docstring."""', False),
        ("pack/room/late.py", "    return", "\n\n    return", False),
    ],
)
def test_digest_follows_code_not_comments(root: Path, file: str, old: str, new: str, changes: bool) -> None:
    before = digest(root)
    path = root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1) if old else new)
    assert (digest(root) != before) is changes


def test_digest_does_not_depend_on_where_the_project_lies(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> None:
    before = digest(root)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(root, elsewhere, dirs_exist_ok=True)
    as_package(elsewhere / "pack", monkeypatch)
    assert digest(elsewhere) == before


def test_named_modules_count(root: Path) -> None:
    assert digest(root, "unused") != digest(root)


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("summaries/made.py", "sum(rows)", "max(rows)", {"total"}),
        ("summaries/made.py", "double(rows) /", "double(rows) //", {"mean"}),
        ("summaries/made.py", "SIZE = 3", "SIZE = 4", {"mean"}),  # what a function that it calls names
        ("room/late.py", "2 * x", "3 * x", {"mean"}),  # imported inside the function
        ("summaries/rounded.py", "round(x)", "round(x, 1)", {"mean"}),  # a function of the room's that it imports
        ("summaries/rounded.py", "return x\n", "return -x\n", set()),
    ],
)
def test_of_a_room_in_parts_a_function_counts_by_itself(root: Path, file: str, old: str, new: str, changes: set[str]) -> None:
    def digests() -> dict[str, str]:
        clear()
        return {name: module.code_digest(functions=(f"summaries.made:{name}",)) for name in ("mean", "total")}

    before = digests()
    path = root / "pack" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    after = digests()
    assert {name for name in before if after[name] != before[name]} == changes


SELECTING = {"columns_of_score", "examples_of_concepts", "features_of_layers", "gen_success", "ordinary_texts_pin", "steps_of"}
"""Of the steps, which say what a job reads and do not count in a digest: what summaries take besides tables."""


@pytest.mark.parametrize("path", sorted((module.PACKAGE / "summaries").glob("*.py")), ids=lambda path: path.stem)
def test_summaries_take_no_formula_from_a_room_that_does_not_count(path: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in imports if str(node.module).startswith("saesteer.steps") for alias in node.names}
    assert {name for name in names if not name.isupper()} <= SELECTING


def test_the_excerpts_that_describe_a_concept_count_in_the_table_that_compares_texts_with_them() -> None:
    assert "analysis.label_evidence" in module.used_by(functions=("summaries.sweeps:steering_means",))


def test_algorithm_versions_are_read_without_importing(root: Path) -> None:
    clear()
    assert module.algorithm_versions("score") == {"score": 3}
    assert module.algorithm_versions("room.late") == {}
    with pytest.raises(module.CodeError, match=r"the package has no module lost"):
        module.algorithm_versions("room.late", "lost")


def test_a_folder_that_an_update_leaves_behind_is_no_package(tmp_path: Path) -> None:
    """Of a package that has become a module, git leaves the folder where Python has cached something in it."""
    (tmp_path / "room/tables/__pycache__").mkdir(parents=True)
    assert module_file(tmp_path, "room.tables") == tmp_path / "room/tables.py"
    (tmp_path / "room/__init__.py").touch()
    assert module_file(tmp_path, "room") == tmp_path / "room/__init__.py"
