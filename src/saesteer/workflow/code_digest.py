"""Digests of the code a job runs: its script and every module of this package that it imports, directly or not.

Snakemake notices an edited script but not an edited module. The digest is over syntax trees without docstrings, so that a comment or a
docstring changes nothing. Imports inside functions count too. Each file is parsed once a process: this happens in every dry run.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saesteer.core.errors import SaesteerError

PACKAGE = Path(__file__).parents[1]


class CodeError(SaesteerError, ValueError):
    """A module that does not keep to what this file relies on."""


@dataclass(frozen=True)
class _Code:
    """What counts of a file."""

    imports: frozenset[str]
    """Names that it imports, anywhere in it."""
    digest: str
    algorithm_version: int | None


@functools.cache
def code_digest(script: Path, *modules: str) -> str:
    """Digest of a script and of the package modules it depends on, in hex; `modules` are those that it imports by a computed name."""
    start = [script, *(file for name in modules if (file := _module_file(name)))]
    files = {file for first in start for file in _closure(first)}
    digests = sorted((_name(file, script.parent), _code(file).digest) for file in files)
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


def _name(file: Path, scripts: Path) -> str:
    """A file's place in the package or beside the script, wherever the project lies."""
    return str(file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else scripts))


def algorithm_version(module: str) -> int:
    """The ALGORITHM_VERSION that a module sets, read without importing it (it may need torch)."""
    file = _module_file(module)
    version = _code(file).algorithm_version if file else None
    if version is not None:
        return version
    raise CodeError(
        f"module {module} sets no ALGORITHM_VERSION: add `ALGORITHM_VERSION = 1`, and raise it when the meaning of its rows changes"
    )


def _closure(start: Path) -> set[Path]:
    found, waiting = {start}, [start]
    while waiting:
        new = _imported(waiting.pop()) - found
        found |= new
        waiting += new
    return found


@functools.cache
def _imported(file: Path) -> frozenset[Path]:
    """Files of this package that a file imports, and sibling modules in a script's folder."""
    names = _code(file).imports
    siblings = {file.parent / f"{name}.py" for name in names if "." not in name and not file.is_relative_to(PACKAGE)}
    modules = {_module_file(name) for name in names}
    return frozenset({path for path in siblings if path.is_file()} | {path for path in modules if path})


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements inside a node, however deep: imports are nowhere else, and most of a tree is expressions."""
    for block in ("body", "orelse", "handlers", "finalbody", "cases"):
        for inner in getattr(node, block, ()):
            yield inner
            yield from _statements(inner)


def _imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield node.module
        for alias in node.names:
            yield f"{node.module}.{alias.name}"


def _module_file(name: str) -> Path | None:
    head, *rest = name.split(".")
    if head != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*rest)
    candidates = [path / "__init__.py", path.with_suffix(".py")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@functools.cache
def _code(file: Path) -> _Code:
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    imports = frozenset(name for statement in _statements(tree) for name in _imported_names(statement))
    return _Code(imports, hashlib.sha256(repr(_plain(tree)).encode()).hexdigest(), _version(tree))


def _version(tree: ast.Module) -> int | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "ALGORITHM_VERSION":
            return int(ast.literal_eval(node.value))
    return None


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings and empty fields: the latter differ between versions of Python."""
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in node._fields]
        return type(node).__name__, *[(name, _plain(value)) for name, value in fields if value is not None and value != []]
    if isinstance(node, list):
        return tuple([_plain(item) for item in node if not _is_text(item)])
    return node


def _is_text(statement: Any) -> bool:
    """Docstrings, and the strings that describe settings' fields."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
