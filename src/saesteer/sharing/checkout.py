"""Putting the files of a version in place, without removing what anybody else wrote.

`pull` notes the files that it writes in a ledger, `data/EXPERIMENT/.pulled.json`. It replaces what the ledger names, unchanged, and the
outputs of rules, which are stated in provenance; a damaged part is set aside. It removes what the ledger names, unchanged, once a version
is without it. Anything else stays, and where such a file is in the way the pull stops before it writes. Files named by their own digest
(parts, a judge's answers) are never removed.
"""

import itertools
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dvc_data.hashfile.checkout import Link
from dvc_objects.fs.generic import test_links
from dvc_objects.fs.local import localfs

from saesteer.core.confined import confined
from saesteer.core.files import write_json
from saesteer.sharing.commands import SharingError
from saesteer.sharing.dvc_metadata import md5
from saesteer.sharing.snakemake_metadata import drop_record

Files = Mapping[Path, str]
"""Absolute path -> MD5."""
LEDGER = ".pulled.json"
SET_ASIDE = ".corrupt"
"""Ending of files that were damaged or that nothing speaks for; never part of a version (.dvcignore)."""


def missing_or_different(files: Files) -> dict[Path, str]:
    """The files that are not in place with these bytes."""
    return {path: digest for path, digest in files.items() if not path.is_file() or md5(path) != digest}


def refuse_in_the_way(folder: Path, experiment: str, due: Files, outputs: Collection[str]) -> None:
    """Stop where a file that is due would take the place of something that neither a rule nor an earlier pull wrote."""
    written = _read_ledger(folder, experiment)
    blocked = [place for path in due if (place := _blocked(folder, path, written, outputs))]
    if blocked:
        listed = "\n".join(f"  {path.relative_to(folder)}" for path in sorted(set(blocked)))
        raise SharingError(
            f"these are in the way of published files and may be yours, so nothing was pulled: move them, then pull again\n{listed}"
        )


def _blocked(folder: Path, path: Path, written: Files, outputs: Collection[str]) -> Path | None:
    """What is in the way of a file; None: nothing, or what may be replaced."""
    if parent := next((parent for parent in path.parents if parent.is_relative_to(folder) and parent.is_file()), None):
        return parent
    if not path.is_symlink() and not path.exists():
        return None
    if path.is_dir():
        return path
    replaceable = str(path.relative_to(folder)) in outputs or _is_store_file(path) or written.get(path) == md5(path)
    return None if replaceable else path


def _is_store_file(path: Path) -> bool:
    """A file whose name or folder says which bytes it has to have: a part, a judge's answers, a fingerprint, a converted SAE."""
    return _is_named_by_digest(path) or path.name == "fingerprint.json" or path.parent.name == "saes"


def _is_named_by_digest(path: Path) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}\.parquet", path.name) is not None


def put_in_place(folder: Path, experiment: str, due: Files, cache: Any) -> None:
    """Link or copy the files that are due from DVC's cache, as DVC is configured, and note them; those that it lacks are left out."""
    available = {path: source for path, digest in due.items() if Path(source := cache.oid_to_path(digest)).is_file()}
    if not available:
        return
    link = Link(test_links(cache.cache_types, cache.fs, cache.path, localfs, str(folder / "data/any")))
    for path, source in available.items():
        partial = path.with_name(f".{path.name}.pulled.partial")
        partial.unlink(missing_ok=True)
        link(cache, source, localfs, str(partial))
        if _is_store_file(path) and path.exists():
            set_aside(path)
        partial.replace(path)
    _write_ledger(folder, experiment, {**_read_ledger(folder, experiment), **{path: due[path] for path in available}})


def remove_what_is_gone(folder: Path, experiment: str, files: Files) -> None:
    """Remove what an earlier pull wrote, if nobody has changed it, where this version is without it."""
    written = _read_ledger(folder, experiment)
    for path in written.keys() - files.keys():
        if path.is_file() and md5(path) == written[path]:
            path.unlink()
            drop_record(folder, str(path.relative_to(folder)))
    _write_ledger(folder, experiment, {path: digest for path, digest in written.items() if path in files})


def set_aside(path: Path) -> Path:
    """Give a file that must not be read another name, under which it stays; those set aside before stay too."""
    names = (path.with_name(f"{path.name}{f'.{number}' if number else ''}{SET_ASIDE}") for number in itertools.count())
    return path.replace(next(name for name in names if not name.exists()))


def _ledger(folder: Path, experiment: str) -> Path:
    return folder / "data" / experiment / LEDGER


def _read_ledger(folder: Path, experiment: str) -> dict[Path, str]:
    """Absolute path -> MD5 of what an earlier pull wrote."""
    file = _ledger(folder, experiment)
    noted = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    below = {name: confined(folder, name) for name in noted}
    homes = (folder / "data" / experiment, folder / "figures" / experiment)
    return {path: noted[name] for name, path in below.items() if path and any(path.is_relative_to(home) for home in homes)}


def _write_ledger(folder: Path, experiment: str, written: Files) -> None:
    """Parts and answers are left out, as they are never removed."""
    noted = {str(path.relative_to(folder)): digest for path, digest in written.items() if not _is_named_by_digest(path)}
    write_json(_ledger(folder, experiment), noted)
