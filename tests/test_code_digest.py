"""The digest of the code a job runs: what changes it and what does not."""

import ast
import shutil
from pathlib import Path

import pytest

from saesteer.workflow import code_digest as module

SCRIPT = '"""A script."""\nfrom common import open_job\nfrom helper import Model\nfrom pack.score import score\n\nscore(open_job())\n'
FILES = {
    "scripts/step.py": SCRIPT,
    "scripts/common.py": "from pack.workflow.plan import plan\n\ndef open_job():\n    return plan()\n",
    "scripts/helper.py": "from common import open_job\n\nModel = 1\n",
    "pack/workflow/plan.py": "def plan():\n    return 1\n",
    "pack/hints.py": "Hint = int\n",
    "pack/__init__.py": "",
    "pack/score.py": """if TYPE_CHECKING:
    from pack.hints import Hint

ALGORITHM_VERSION = 3


def score(x):
    \'\'\'Score.\'\'\'
    from pack import late
    return late.double(x)
""",
    "pack/late.py": "def double(x):\n    return 2 * x  # twice\n",
    "pack/unused.py": "X = 1\n",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "pack")
    return tmp_path


def clear() -> None:
    """Forget what was read of files that a test changes."""
    for cached in (
        module.code_digest,
        module.algorithm_versions,
        module._imported,
        module._tree,
        module._imports,
        module._digest,
        module._version,
    ):
        cached.cache_clear()


def digest(root: Path, *modules: str) -> str:
    clear()
    return module.code_digest(root / "scripts/step.py", *modules)


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("scripts/step.py", "score(open_job())", "score(open_job() + 1)", True),
        ("scripts/helper.py", "Model = 1", "Model = 2", True),
        ("scripts/common.py", "return plan()", "return plan() + 1", False),  # what a job computes, not how
        ("pack/workflow/plan.py", "return 1", "return 2", False),
        ("pack/hints.py", "int", "float", False),  # for type checkers
        ("pack/score.py", "double(x)", "double(x + 1)", True),
        ("pack/late.py", "2 * x", "3 * x", True),  # imported inside a function
        ("pack/__init__.py", "", "Y = 2\n", True),
        ("pack/unused.py", "X = 1", "X = 2", False),
        ("pack/late.py", "# twice", "# two times", False),
        ("pack/score.py", "'''Score.'''", "'''The score, in [0, 1].'''", False),
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
        assert module._imports(source) == everywhere, source
    assert len(module._imports(file)) == 11  # `from m import handler` counts twice


def test_named_modules_count(root: Path) -> None:
    assert digest(root, "pack.unused") != digest(root)


def test_algorithm_versions_are_read_without_importing(root: Path) -> None:
    clear()
    assert module.algorithm_versions("score") == {"score": 3}
    assert module.algorithm_versions("late") == {}
    with pytest.raises(module.CodeError, match=r"the package has no module lost"):
        module.algorithm_versions("late", "lost")
