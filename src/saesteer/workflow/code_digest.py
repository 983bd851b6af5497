"""Versions and digests of the code that computes rows, tables and figures: of modules of the package and of all that they import.

Rows are due again where the ALGORITHM_VERSION of a module that computes them is raised (`algorithm_versions`), tables and figures where
the code that makes them is edited (`code_digest`: Snakemake notices an edited script, but no edited module). Imports inside functions
count; imports for type checkers do not, nor does what decides which rows are computed rather than how (`PLUMBING`). The digests are over
syntax trees without docstrings and captions, so that words about the code change nothing; a module of tables counts with its schemas,
tables.csv, without what they say of columns.
"""

import ast
import csv
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grimp

from saesteer.core.errors import SaesteerError
from saesteer.core.modules import module_file

PACKAGE = Path(__file__).parents[1]
_VERSION = re.compile(r"^ALGORITHM_VERSION = (\d+)\b", re.MULTILINE)
PLUMBING = ("workflow", "steps", "run")
"""Rooms and a module of the package that say what a job reads and computes, not how."""
CAPTION = "caption"
"""Keyword whose value says what a figure shows, and draws nothing."""


class CodeError(SaesteerError):
    """A module that does not keep to what this file relies on."""


@functools.cache
def code_digest(*modules: str, scripts: tuple[Path, ...] = ()) -> str:
    """Digest of the code of modules (their names below the package), of files outside it, and of all modules that these import, in hex."""
    files = [*((script.name, script) for script in scripts), *((name, _file(name)) for name in imported_by(*modules, scripts=scripts))]
    digests = sorted((name, _digest(file)) for name, file in files)
    return hashlib.sha256(repr(digests).encode()).hexdigest()[:16]


@functools.cache
def algorithm_versions(*modules: str, without: tuple[str, ...] = ()) -> dict[str, int]:
    """Module -> ALGORITHM_VERSION, of all modules that have one among those given and those that they import, but for `without`."""
    versions = {name: version_of(name) for name in sorted(imported_by(*modules) - set(without))}
    return {name: version for name, version in versions.items() if version is not None}


def versioned_modules(*modules: str) -> dict[str, tuple[int | None, str]]:
    """Module -> its ALGORITHM_VERSION, None without, and the digest of its syntax tree: of all modules that have a version, of those given,
    and of those that they import."""
    versioned = [name for name in _names(_graph().modules) if version_of(name) is not None]
    return {name: (version_of(name), _digest(_file(name))[:16]) for name in imported_by(*versioned, *modules)}


def imported_by(*modules: str, scripts: tuple[Path, ...] = ()) -> set[str]:
    """Modules, and those that they and the files import, directly or not, with the packages that they lie in; plumbing is left out."""
    graph = _graph()
    start = {f"{PACKAGE.name}.{name}" for name in modules}
    if absent := start - graph.modules:
        raise CodeError(f"the package has no module {_names(absent)[0]}")
    for script in scripts:
        start |= _imports(script) & graph.modules
    names = _names(start.union(*(graph.find_upstream_modules(name) for name in start)))
    return {".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)}


def version_of(module: str) -> int | None:
    """The ALGORITHM_VERSION of a module; it is not imported, as it may need torch."""
    version = _VERSION.search(_text(_file(module)))
    return int(version[1]) if version else None


@functools.cache
def _graph() -> grimp.ImportGraph:
    """Which module of the package imports which, without plumbing."""
    graph = grimp.build_graph(PACKAGE.name, exclude_type_checking_imports=True, cache_dir=None)
    for module in {name for name in graph.modules if name.split(".")[1:2] and name.split(".")[1] in PLUMBING}:
        graph.remove_module(module)
    return graph


def _names(modules: Iterable[str]) -> list[str]:
    """Names below the package."""
    return sorted(name.removeprefix(f"{PACKAGE.name}.") for name in modules if name != PACKAGE.name)


def _file(module: str) -> Path:
    return module_file(PACKAGE, module)


@functools.cache
def _imports(script: Path) -> frozenset[str]:
    """Names that a script imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(_text(script), filename=str(script))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = [(str(node.module), alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    return frozenset(plain.union(*({module, f"{module}.{name}"} for module, name in parts)))


@functools.cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@functools.cache
def _digest(file: Path) -> str:
    schemas = _schemas(file.with_suffix(".csv")) if file.name == "tables.py" else ""
    return hashlib.sha256((repr(_plain(ast.parse(_text(file), filename=str(file)))) + schemas).encode()).hexdigest()


def _schemas(file: Path) -> str:
    """What a CSV of schemas says of each column's values: its role, its type, and whether it may be null."""
    rows = csv.DictReader(_text(file).splitlines())
    return repr([(row["table"], row["column"], row["role"], row["type"], bool(row["null when"])) for row in rows])


def _plain(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings, captions and empty fields: the latter differ between versions of Python."""
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in node._fields if not (isinstance(node, ast.keyword) and node.arg == CAPTION)]
        return type(node).__name__, *[(name, _plain(value)) for name, value in fields if value is not None and value != []]
    if isinstance(node, list):
        return tuple([_plain(item) for item in node if not _is_text(item)])
    return node


def _is_text(statement: Any) -> bool:
    """Docstrings, and the strings that describe settings' fields."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
