"""The digest of the code a job runs: what changes it and what does not."""

import ast
import shutil
from pathlib import Path

import pytest

from saesteer.settings import load_experiment
from saesteer.workflow import code_digest as module
from saesteer.workflow.plan import plans

SCRIPT = '"""A script."""\nfrom helper import open_job\nfrom pack.score import score\n\nscore(open_job())\n'
FILES = {
    "scripts/step.py": SCRIPT,
    "scripts/helper.py": "def open_job():\n    return 1\n",
    "pack/__init__.py": "",
    "pack/score.py": 'ALGORITHM_VERSION = 3\n\n\ndef score(x):\n    """Score."""\n    from pack import late\n    return late.double(x)\n',
    "pack/late.py": "def double(x):\n    return 2 * x  # twice\n",
    "pack/unused.py": "X = 1\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "pack")
    return tmp_path


def digest(root: Path, *modules: str) -> str:
    for cached in (module.code_digest, module._imported, module._code):
        cached.cache_clear()
    return module.code_digest(root / "scripts/step.py", *modules)


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("scripts/step.py", "score(open_job())", "score(open_job() + 1)", True),
        ("scripts/helper.py", "return 1", "return 2", True),
        ("pack/score.py", "double(x)", "double(x + 1)", True),
        ("pack/late.py", "2 * x", "3 * x", True),  # imported inside a function
        ("pack/__init__.py", "", "Y = 2\n", True),
        ("pack/unused.py", "X = 1", "X = 2", False),
        ("pack/late.py", "# twice", "# two times", False),
        ("pack/score.py", '"""Score."""', '"""The score, in [0, 1]."""', False),
        ("scripts/step.py", '"""A script."""', '"""Another docstring."""', False),
        ("pack/late.py", "    return", "\n\n    return", False),
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
    monkeypatch.setattr(module, "PACKAGE", elsewhere / "pack")
    assert digest(elsewhere) == before


EVERY_BLOCK = """
if a: import m.body
elif b: import m.elif_
else: import m.else_
try: import m.try_
except A: from m import handler
else:
    with c: import m.with_
finally: import m.finally_
for x in y: import m.loop
match z:
    case 1: import m.case
class C:
    async def f(self):
        import m.method
"""


def test_imports_are_found_wherever_they_can_stand(tmp_path: Path) -> None:
    (file := tmp_path / "blocks.py").write_text(EVERY_BLOCK)
    for source in (file, *sorted(Path(module.__file__).parent.rglob("*.py"))):
        everywhere = {name for node in ast.walk(ast.parse(source.read_text())) for name in module._imported_names(node)}
        assert module._code(source).imports == everywhere, source
    assert len(module._code(file).imports) == 11  # `from m import handler` counts twice


def test_named_modules_count(root: Path) -> None:
    assert digest(root, "pack.unused") != digest(root)


def test_algorithm_version_is_read_without_importing(root: Path) -> None:
    assert module.algorithm_version("pack.score") == 3
    with pytest.raises(module.CodeError, match=r"module pack.late sets no ALGORITHM_VERSION"):
        module.algorithm_version("pack.late")


EXPERIMENTS = Path(__file__).parents[1] / "config/experiments"


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.yaml")))
def test_every_step_of_every_experiment_has_a_version(name: str) -> None:
    steps = plans(load_experiment(name, EXPERIMENTS))
    assert all(module.algorithm_version(f"saesteer.{plan.module}") >= 1 for plan in steps.values())
