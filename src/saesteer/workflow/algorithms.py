"""The lock of the algorithms: of every module that rows depend on its versions, and the digest of its syntax tree; and each step's columns.

Rows are computed again where a version is raised, not where code is edited (saesteer.workflow.plan). So whoever edits such a module says
which it is: the version is raised, or the edit is acknowledged as one that keeps all rows. `make check`, `saesteer record` and `saesteer
push` refuse code that differs from the lock. A module without a version counts as well, when one that has a version imports it.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from saesteer.core.files import value_digest, write_text
from saesteer.settings.registry import METHODS
from saesteer.steps.step import step_tables
from saesteer.workflow.code_digest import PACKAGE, CodeError, versioned_modules

LOCK = PACKAGE / "algorithms.lock"

NEW, GONE, RAISED = "is not in it", "is in it, but no row depends on such a module", "has other versions there"
EDITED, LOWERED = (
    "was edited, and no version of it was raised",
    "has a lower version than there: a version that was used means what it meant",
)
REMEDY = """If rows mean something else now, raise ALGORITHM_VERSION of the module, or of each one whose rows it changes, or of a method its
version in settings/methods.csv; then run `saesteer algorithms`. If all rows of the versions that are not raised stay the same to the bit,
run `saesteer algorithms --keep MODULE`."""

Locked = tuple[dict[str, int], str]
"""A module's versions, and the digest of its syntax tree."""


def algorithms() -> dict[str, Locked]:
    """Every module that rows depend on, and every table of a step. The versions of a module that fits methods are those of the methods."""
    of_methods: dict[str, dict[str, int]] = {}
    for row in METHODS:
        of_methods.setdefault(row.module.removeprefix(f"{PACKAGE.name}."), {})[row.name] = row.version
    modules = versioned_modules(*of_methods)
    constants = {name: {} if version is None else {"ALGORITHM_VERSION": version} for name, (version, _) in modules.items()}
    tables: dict[str, Locked] = {f"table {name}": ({}, value_digest(table.in_words)[:16]) for name, table in step_tables().items()}
    return {name: (constants[name] | of_methods.get(name, {}), digest) for name, (_, digest) in modules.items()} | tables


def check_lock() -> None:
    """Refuse code that differs from the lock."""
    _refuse(_changes(algorithms()))


def write_lock(keep: Sequence[str] = ()) -> dict[str, str]:
    """Lock the code as it is; refused while a module was edited whose version is the same, but for those that match one of the patterns in
    `keep`. Gives what has changed, by module."""
    now = algorithms()
    if unknown := [pattern for pattern in keep if not any(fnmatch(name, pattern) for name in now)]:
        raise CodeError(f"--keep {unknown[0]}: no row depends on a module of this name; names are as in {LOCK}")
    changes = _changes(now)
    acknowledged = {name for name in now if any(fnmatch(name, pattern) for pattern in keep)}
    _refuse({name: change for name, change in changes.items() if change == LOWERED or (change == EDITED and name not in acknowledged)})
    write_text(LOCK, "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(module)}" for name, module in sorted(now.items())) + "\n}\n")
    return changes


def _refuse(changes: Mapping[str, str]) -> None:
    if changes:
        listed = "\n".join(f"  {name} {change}" for name, change in changes.items())
        raise CodeError(f"the code differs from {LOCK}:\n{listed}\n{REMEDY}")


def _changes(now: Mapping[str, Locked]) -> dict[str, str]:
    """Module -> how it differs from the lock, of those that do."""
    try:
        before = {name: (versions, digest) for name, (versions, digest) in json.loads(LOCK.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError) as error:
        raise CodeError(f"{LOCK} cannot be read ({error}): take it from git (after a merge: of either side), then run the same") from error
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    changes = dict.fromkeys(names, NEW) | dict.fromkeys(before.keys() - now.keys(), GONE)
    for name in before.keys() & set(names) & now.keys():
        (old_versions, old_digest), (versions, digest) = before[name], now[name]
        rises = [versions[key] - version for key, version in old_versions.items() if key in versions]
        edited = old_digest != digest and not any(rises)
        changes[name] = LOWERED if any(rise < 0 for rise in rises) else EDITED if edited else RAISED
    return changes
