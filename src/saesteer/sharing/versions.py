"""What DVC holds: one .dvc file for each folder of an experiment, in git, naming a listing of the folder's files and their digests."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from saesteer.sharing.commands import SharingError

log = logging.getLogger(__name__)

KEPT = Path("data/.kept")
"""Where unpublished parts wait while DVC puts another version of their folder in place."""


@dataclass(frozen=True)
class Version:
    """A folder or file as a .dvc file names it."""

    path: Path
    """Absolute path of the folder or file."""
    files: dict[Path, str]
    """Absolute path -> MD5; empty where neither cache nor remote has the folder's listing."""
    cache: Any
    """DVC's object store."""


def dvc_files(folder: Path, experiments: Sequence[str]) -> list[Path]:
    """The .dvc files of experiments, relative to the repository."""
    patterns = [pattern for name in experiments for pattern in (f"*/{name}/*.dvc", f"*/{name}.dvc")]
    return sorted(path.relative_to(folder) for pattern in patterns for path in folder.glob(pattern) if path.is_file())


@contextmanager
def repository(folder: Path) -> Iterator[Repo]:
    """DVC's view of the repository; its errors as ours."""
    try:
        with Repo(str(folder)) as repo:
            yield repo
    except DvcException as error:
        raise SharingError(f"DVC: {error}") from error


def default_remote(folder: Path) -> str | None:
    """Name of the remote that `dvc push` uses."""
    with repository(folder) as repo:
        return repo.config["core"].get("remote")


def forget_what_was_collected(folder: Path) -> None:
    """Have DVC look again at what a push or pull has to bring.

    It keeps that list output by output as it collects it, and takes one that a killed push or pull left short for whole: what the
    others hold would not travel (DVC's issue 10977). Its other lists, and the digests that it knows, stay.
    """
    with repository(folder) as repo:
        repo.drop_data_index()


def listing(repo: Repo, out: Any) -> Tree | None:
    """The files of a folder's version, from DVC's cache or its remote; None where neither has it."""
    for store in (lambda: out.cache, lambda: repo.cloud.get_remote_odb(None, "fetch")):
        try:
            return Tree.load(store(), out.hash_info)
        except (OSError, ObjectFormatError, DvcException) as error:
            log.info("%s: no listing there (%s)", out.def_path, error)
    return None


def keep_unpublished(folder: Path, files: Sequence[Path]) -> None:
    """Hard-link the parts that DVC does not hold under KEPT, so that no checkout can lose them."""
    with _versions(folder, files) as versions:
        for version in versions:
            for path in _store_files(version.path):
                if path not in version.files and not version.cache.exists(_md5(path)):
                    _link(path, folder / KEPT / path.relative_to(folder))


def put_back(folder: Path) -> None:
    """Give the kept parts their places again; also those that an interrupted pull left."""
    for path in (folder / KEPT).rglob("*"):
        if path.is_file():
            _link(path, folder / path.relative_to(folder / KEPT))
    shutil.rmtree(folder / KEPT, ignore_errors=True)


def check_out_what_is_there(folder: Path, files: Sequence[Path]) -> None:
    """Of folders that DVC cannot check out whole, put in place the files that its cache does hold."""
    with _versions(folder, files) as versions:
        for version in versions:
            for path, digest in version.files.items():
                if not path.exists() and version.cache.exists(digest):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(version.cache.oid_to_path(digest), path)


def drop_from_cache(folder: Path, files: Sequence[Path], damaged: Sequence[Path]) -> int:
    """Remove damaged files, and the objects of DVC's cache that they came from where those are damaged too. Gives the number of files."""
    n_dropped = 0
    with _versions(folder, files) as versions:
        for version in versions:
            for path in version.files.keys() & set(damaged):
                cached = Path(version.cache.oid_to_path(version.files[path]))
                for copy in (path, cached):
                    if copy.is_file() and _md5(copy) != version.files[path]:
                        copy.unlink()
                        n_dropped += 1
    return n_dropped


@contextmanager
def _versions(folder: Path, files: Sequence[Path]) -> Iterator[Iterator[Version]]:
    with repository(folder) as repo:
        yield (_version(repo, folder, file) for file in files)


def _version(repo: Repo, folder: Path, file: Path) -> Version:
    out, path = load_file(repo, str(folder / file)).stage.outs[0], folder / file.with_suffix("")
    if not out.is_dir_checksum:
        return Version(path, {path: out.hash_info.value}, out.cache)
    tree = listing(repo, out)
    return Version(path, {path.joinpath(*key): digest.value for key, _, digest in tree} if tree else {}, out.cache)


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
