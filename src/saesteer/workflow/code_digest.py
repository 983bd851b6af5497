"""Digests of the code a job runs: its script and every module of this package that it imports, directly or not.

Snakemake notices an edited script but not an edited module. The digest is over syntax trees without docstrings, so that a comment or a
docstring changes nothing. Imports inside functions count; imports for type checkers do not, nor does what decides which rows are computed
rather than how (`PLUMBING`): that shows in a job's keys and settings. Each file is parsed once a process: this happens in every dry run.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saesteer.core.errors import SaesteerError

PACKAGE = Path(__file__).parents[1]
PLUMBING = ("workflow", "common")
"""A room of the package, and the helper beside the scripts that each of them begins with."""


class CodeError(SaesteerError):
    """A module that does not keep to what this file relies on."""


@functools.cache
def code_digest(script: Path, *modules: str) -> str:
    """Digest of a script and of the package modules it depends on, in hex; `modules` are those that it imports by a computed name."""
    start = [script, *(file for name in modules if (file := _module_file(name)))]
    digests = sorted((_name(file, script.parent), _digest(file)) for file in _closure(*start))
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


def _name(file: Path, scripts: Path) -> str:
    """A file's place in the package or beside the script, wherever the project lies."""
    return str(file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else scripts))


@functools.cache
def algorithm_versions(*modules: str, without: tuple[str, ...] = ()) -> dict[str, int]:
    """Module (its name below the package) -> ALGORITHM_VERSION, of all modules that have one among those given and those that they import,
    but for `without`. Read without importing them: they may need torch."""
    files = [_module_file(f"{PACKAGE.name}.{name}") for name in modules]
    if None in files:
        raise CodeError(f"the package has no module {modules[files.index(None)]}")
    left_out = {_module_file(f"{PACKAGE.name}.{name}") for name in without}
    versions = {file: _version(file) for file in _closure(*(file for file in files if file)) - left_out}
    return dict(sorted((_dotted(file), version) for file, version in versions.items() if version is not None))


def versioned_modules(*modules: str) -> dict[str, tuple[int | None, str]]:
    """Module (its name below the package) -> its ALGORITHM_VERSION, None without, and the digest of its syntax tree: of all modules that
    have a version, of those given, and of those that they import."""
    versioned = [file for file in PACKAGE.rglob("*.py") if _version(file) is not None]
    given = [file for name in modules if (file := _module_file(name))]
    return {_dotted(file): (_version(file), _digest(file)[:16]) for file in _closure(*versioned, *given)}


def _dotted(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def _closure(*start: Path) -> set[Path]:
    """Files and what they import, directly or not; plumbing is not entered."""
    seen, waiting = set(start), list(start)
    while waiting:
        new = {file for file in _imported(waiting.pop()) if not _is_plumbing(file)} - seen
        seen |= new
        waiting += new
    return seen


def _is_plumbing(file: Path) -> bool:
    room, helper = PLUMBING
    return PACKAGE / room in file.parents or (file.stem == helper and not file.is_relative_to(PACKAGE))


@functools.cache
def _imported(file: Path) -> frozenset[Path]:
    """Files of this package that a file imports, and sibling modules in a script's folder."""
    names = _imports(file)
    siblings = {file.parent / f"{name}.py" for name in names if "." not in name and not file.is_relative_to(PACKAGE)}
    modules = {_module_file(name) for name in names}
    return frozenset({path for path in siblings if path.is_file()} | {path for path in modules if path})


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements inside a node, however deep: imports are nowhere else, and most of a tree is expressions."""
    for block in ("body", "orelse", "handlers", "finalbody", "cases"):
        if block == "body" and _is_for_type_checkers(node):
            continue
        for inner in getattr(node, block, ()):
            yield inner
            yield from _statements(inner)


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


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
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


@functools.cache
def _imports(file: Path) -> frozenset[str]:
    """Names that a file imports, anywhere in it."""
    return frozenset(name for statement in _statements(_tree(file)) for name in _imported_names(statement))


@functools.cache
def _digest(file: Path) -> str:
    return hashlib.sha256(repr(_plain(_tree(file))).encode()).hexdigest()


@functools.cache
def _version(file: Path) -> int | None:
    for node in _tree(file).body:
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
