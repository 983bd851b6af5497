"""Fetching what a commit names: data from the remote, checked against its provenance, adopted where it agrees."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from saesteer.sharing.adopt import Examination, adopt, examine
from saesteer.sharing.commands import SharingError, dvc, set_up_merging
from saesteer.sharing.dvc_issue_10977 import forget_what_was_collected
from saesteer.sharing.dvc_metadata import dvc_files, versions
from saesteer.sharing.provenance import published_experiments

KEPT = Path("data/.kept")
"""Where unpublished parts wait while DVC puts another version of their folder in place."""


def pull(folder: Path, experiments: Sequence[str]) -> dict[str, Examination]:
    """Bring the checkout's version of the experiments (none named: of all that were published), and adopt it.

    Parts that were computed here and are not published yet stay. What the remote lacks or holds damaged is left to be made again.
    """
    known = published_experiments(folder)
    if unknown := sorted(set(experiments) - set(known)):
        raise SharingError(f"nothing was published of {', '.join(unknown)} at this commit; published: {', '.join(known) or 'nothing'}")
    names = list(experiments) or known
    files = dvc_files(folder, names)
    set_up_merging(folder)
    _keep_unpublished(folder, files)
    try:
        _check_out(folder, files)
    finally:
        _put_back(folder)
    examined = {name: examine(folder, name) for name in names}
    if _drop_from_cache(folder, files, [path for examination in examined.values() for path in examination.damaged]):
        _check_out(folder, files)
        examined = {name: examine(folder, name) for name in names}
    for examination in examined.values():
        adopt(folder, examination)
    return examined


def _check_out(folder: Path, files: Sequence[Path]) -> None:
    """`dvc pull`; where some of a folder's files cannot be had, the others are put in place all the same."""
    forget_what_was_collected(folder)
    if not dvc(folder, "pull", "--force", *map(str, files)):
        dvc(folder, "checkout", "--force", "--quiet", *map(str, files))
        _check_out_what_is_there(folder, files)


def _keep_unpublished(folder: Path, files: Sequence[Path]) -> None:
    """Hard-link the parts that DVC does not hold under KEPT, so that no checkout can lose them."""
    for version in versions(folder, files):
        for path in _store_files(version.path):
            if path not in version.files and not version.cache.exists(_md5(path)):
                _link(path, folder / KEPT / path.relative_to(folder))


def _put_back(folder: Path) -> None:
    """Give the kept parts their places again; also those that an interrupted pull left."""
    for path in (folder / KEPT).rglob("*"):
        if path.is_file():
            _link(path, folder / path.relative_to(folder / KEPT))
    shutil.rmtree(folder / KEPT, ignore_errors=True)


def _check_out_what_is_there(folder: Path, files: Sequence[Path]) -> None:
    """Of folders that DVC cannot check out whole, put in place the files that its cache does hold."""
    for version in versions(folder, files):
        for path, digest in version.files.items():
            if not path.exists() and version.cache.exists(digest):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(version.cache.oid_to_path(digest), path)


def _drop_from_cache(folder: Path, files: Sequence[Path], damaged: Sequence[Path]) -> int:
    """Remove damaged files, and the objects of DVC's cache that they came from where those are damaged too. Gives the number of files."""
    n_dropped = 0
    for version in versions(folder, files):
        for path in version.files.keys() & set(damaged):
            cached = Path(version.cache.oid_to_path(version.files[path]))
            for copy in (path, cached):
                if copy.is_file() and _md5(copy) != version.files[path]:
                    copy.unlink()
                    n_dropped += 1
    return n_dropped


def _store_files(folder: Path) -> Iterator[Path]:
    """The parts of a step's folder and their fingerprints spelt out."""
    yield from folder.glob("*/layer_*/*.parquet")
    yield from folder.glob("*/fingerprint.json")


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
