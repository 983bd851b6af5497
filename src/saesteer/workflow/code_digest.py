"""Versions and digests of the code that computes rows, tables and figures: of modules of the package and of all that they import.

Rows are due again where the ALGORITHM_VERSION of a module that computes them is raised (`algorithm_versions`), tables and figures where
the code that makes them is edited (`code_digest`: Snakemake notices an edited script, but no edited module). Imports inside functions
count; imports for type checkers do not, nor does what decides which rows are computed rather than how (`PLUMBING`). The digests are over
syntax trees without docstrings, captions and what columns mean, so that words about the code change nothing. Of a room of many small
functions (`IN_PARTS`) only what is used counts.
"""

import ast
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import grimp

from saesteer.core.errors import SaesteerError
from saesteer.core.modules import module_file

PACKAGE = Path(__file__).parents[1]
_VERSION = re.compile(r"^ALGORITHM_VERSION = (\d+)\b", re.MULTILINE)
PLUMBING = ("workflow", "steps", "run")
"""Rooms and a module of the package that say what a job reads and computes, not how."""
VALUES = tuple(f"settings.{name}" for name in ("experiment", "inputs", "load", "methods", "steps"))
"""What an experiment file may say. Of the values that one says, those that a table or figure depends on are in its job's params."""
IN_PARTS = "summaries"
"""A room of which a function counts by itself, with what it names in its module."""
CAPTION = "caption"
"""Keyword whose value says what a figure shows, and draws nothing."""
COLUMN = "Column"
"""Call of which a text says what a column means, or when it is null."""


class CodeError(SaesteerError):
    """A module that does not keep to what this file relies on."""


@functools.cache
def code_digest(*modules: str, functions: tuple[str, ...] = (), scripts: tuple[Path, ...] = ()) -> str:
    """Digest of the code of modules (their names below the package), of functions of `IN_PARTS` (MODULE:FUNCTION), of files outside the
    package, and of all modules that these import, in hex."""
    pieces = _pieces(functions, scripts)
    digests = {name: _digest(_file(name)) for name in used_by(*modules, functions=functions, scripts=scripts)}
    digests |= {name: _tree_digest(statements) for name, statements in pieces.items()}
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:16]


def used_by(*modules: str, functions: tuple[str, ...] = (), scripts: tuple[Path, ...] = ()) -> set[str]:
    """The modules that count in a `code_digest` as a whole."""
    without = (*PLUMBING, *VALUES, IN_PARTS)
    imports = {".".join(names[:n]) for body in _pieces(functions, scripts).values() for names in _imports(body) for n in (-1, len(names))}
    return imported_by(*modules, *_names(imports & _graph(without).modules), without=without)


@functools.cache
def algorithm_versions(*modules: str, without: tuple[str, ...] = ()) -> dict[str, int]:
    """Module -> ALGORITHM_VERSION, of all modules that have one among those given and those that they import, but for `without`."""
    versions = {name: version_of(name) for name in sorted(imported_by(*modules) - set(without))}
    return {name: version for name, version in versions.items() if version is not None}


def versioned_modules(*modules: str) -> dict[str, tuple[int | None, str]]:
    """Module -> its ALGORITHM_VERSION, None without, and the digest of its syntax tree: of all modules that have a version, of those given,
    of those that they import, and of the steps."""
    versioned = [name for name in _names(_graph(PLUMBING).modules) if version_of(name) is not None]
    steps = {f"steps.{path.stem}" for path in (PACKAGE / "steps").glob("[!_]*.py")}
    return {name: (version_of(name), _digest(_file(name))[:16]) for name in imported_by(*versioned, *modules) | steps}


def imported_by(*modules: str, without: tuple[str, ...] = PLUMBING) -> set[str]:
    """Modules, and those that they import, directly or not, with the packages that they lie in; rooms and modules `without` are left out,
    with what only they import."""
    graph = _graph(without)
    start = {f"{PACKAGE.name}.{name}" for name in modules}
    if absent := start - graph.modules:
        raise CodeError(f"the package has no module {_names(absent)[0]}")
    names = _names(start.union(*(graph.find_upstream_modules(name) for name in start)))
    return {".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)}


def version_of(module: str) -> int | None:
    """The ALGORITHM_VERSION of a module; it is not imported, as it may need torch."""
    version = _VERSION.search(_text(_file(module)))
    return int(version[1]) if version else None


@functools.cache
def _graph(without: tuple[str, ...]) -> grimp.ImportGraph:
    """Which module of the package imports which, without some rooms and modules."""
    graph = grimp.build_graph(PACKAGE.name, exclude_type_checking_imports=True, cache_dir=None)
    left_out = tuple(f"{PACKAGE.name}.{name}." for name in without)
    for module in [name for name in graph.modules if f"{name}.".startswith(left_out)]:
        graph.remove_module(module)
    return graph


def _names(modules: Iterable[str]) -> list[str]:
    """Names below the package."""
    return sorted(name.removeprefix(f"{PACKAGE.name}.") for name in modules if name != PACKAGE.name)


def _file(module: str) -> Path:
    return module_file(PACKAGE, module)


@functools.cache
def _pieces(functions: tuple[str, ...], scripts: tuple[Path, ...]) -> dict[str, list[ast.stmt]]:
    """Scripts and functions of `IN_PARTS`, with the functions of that room that they import, as statements."""
    pieces = {script.name: ast.parse(_text(script), filename=str(script)).body for script in scripts}
    waiting = [*functions, *(name for body in pieces.values() for name in _functions_imported(body))]
    while waiting:
        name = waiting.pop()
        if name not in pieces:
            pieces[name] = _statements_of(*name.split(":"))
            waiting += _functions_imported(pieces[name])
    return pieces


def _functions_imported(body: Sequence[ast.stmt]) -> list[str]:
    """The functions of `IN_PARTS` that statements import, as MODULE:FUNCTION."""
    room = [PACKAGE.name, IN_PARTS]
    return [f"{'.'.join(names[1:-1])}:{names[-1]}" for names in _imports(body) if names[:2] == room and len(names) == len(room) + 2]


def _statements_of(module: str, function: str) -> list[ast.stmt]:
    """The statements of a module that a function needs: its own, and those that define or import what these name."""
    by_name = {name: statement for statement in ast.parse(_text(_file(module))).body for name in _defined(statement)}
    needed: dict[str, ast.stmt] = {}
    waiting = [function]
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in needed:
            needed[name] = by_name[name]
            waiting += [node.id for node in ast.walk(by_name[name]) if isinstance(node, ast.Name)]
    return [needed[name] for name in sorted(needed)]


def _defined(statement: ast.stmt) -> list[str]:
    """What a statement of a module defines or imports."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def _imports(body: Iterable[ast.stmt]) -> list[list[str]]:
    """What statements import, anywhere in them, as parts of dotted names; of a module's name that it is imported from, with that name."""
    nodes = [node for statement in body for node in ast.walk(statement)]
    plain = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    named = [f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    return [name.split(".") for name in dict.fromkeys((*plain, *named))]


@functools.cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@functools.cache
def _digest(file: Path) -> str:
    return _tree_digest(ast.parse(_text(file), filename=str(file)))


def _tree_digest(tree: ast.Module | list[ast.stmt]) -> str:
    return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings, captions, what columns mean, and empty fields: these differ between versions of
    Python."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == COLUMN:
        return COLUMN, _plain(node.keywords), [not _is_string(value) and _plain(value) for value in node.args]
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in node._fields if not (isinstance(node, ast.keyword) and node.arg == CAPTION)]
        return type(node).__name__, *[(name, _plain(value)) for name, value in fields if value is not None and value != []]
    if isinstance(node, list):
        return tuple([_plain(item) for item in node if not _is_text(item)])
    return node


def _is_text(statement: Any) -> bool:
    """Docstrings, and the strings that describe settings' fields."""
    return isinstance(statement, ast.Expr) and _is_string(statement.value)


def _is_string(value: Any) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
