"""DVC's metadata on disk: one .dvc file for each folder of an experiment, in git, naming a listing of the folder's files and digests.

It is read and written through DVC's own Python interface, which is not a public one: hence one release of DVC, checked.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.tree import Tree
from dvc_objects.errors import ObjectFormatError

from saesteer.sharing.commands import SharingError, check_release

RELEASE = "3.67"

log = logging.getLogger(__name__)


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
    check_release("dvc", RELEASE)
    try:
        with Repo(str(folder)) as repo:
            yield repo
    except DvcException as error:
        raise SharingError(f"DVC: {error}") from error


def default_remote(folder: Path) -> str | None:
    """Name of the remote that `dvc push` uses."""
    with repository(folder) as repo:
        return repo.config["core"].get("remote")


def listing(repo: Repo, out: Any) -> Tree | None:
    """The files of a folder's version, from DVC's cache or its remote; None where neither has it."""
    for store in (lambda: out.cache, lambda: repo.cloud.get_remote_odb(None, "fetch")):
        try:
            return Tree.load(store(), out.hash_info)
        except (OSError, ObjectFormatError, DvcException) as error:
            log.info("%s: no listing there (%s)", out.def_path, error)
    return None


def versions(folder: Path, files: Sequence[Path]) -> Iterator[Version]:
    """What .dvc files name, one after the other."""
    with repository(folder) as repo:
        for file in files:
            yield _version(repo, folder, file)


def _version(repo: Repo, folder: Path, file: Path) -> Version:
    out, path = load_file(repo, str(folder / file)).stage.outs[0], folder / file.with_suffix("")
    if not out.is_dir_checksum:
        return Version(path, {path: out.hash_info.value}, out.cache)
    tree = listing(repo, out)
    return Version(path, {path.joinpath(*key): digest.value for key, _, digest in tree} if tree else {}, out.cache)


def merge_versions(ours: Path, theirs: Path) -> None:
    """Write the union of two .dvc files' folders into `ours`; of two versions of a single file, ours stays.

    Parts are named by their content, so the union of both listings is right. Manifests, tables and figures may differ: ours are taken, and
    since they disagree with the merged configuration, Snakemake makes them again without computing a row. DVC's own driver stops at such
    files, and needs the other branch's listing in the local cache; this one fetches it.
    """
    with repository(Path()) as repo:
        file = load_file(repo, str(ours), verify=False)
        stage = file.stage
        out, other = stage.outs[0], load_file(repo, str(theirs), verify=False).stage.outs[0]
        if not (out.is_dir_checksum and other.is_dir_checksum):
            return
        mine, yours = listing(repo, out), listing(repo, other)
        if mine is None or yours is None:
            raise SharingError(
                f"{out.def_path}: neither DVC's cache nor the remote has the {'other' if mine else 'own'} branch's listing of it:"
                " `git merge --abort`, have that branch pushed (`make push`), merge again"
            )
        merged = _union(mine, yours)
        out.cache.add(merged.path, merged.fs, merged.oid)
        _upload(repo, mine, yours, merged)
        out.hash_info, out.meta, out.files = merged.hash_info, Meta(nfiles=len(merged)), None
        file.dump(stage)


def _union(mine: Tree, yours: Tree) -> Tree:
    merged = Tree()
    for tree in (yours, mine):
        for key, _, digest in tree:
            merged.add(key, None, digest)
    merged.digest()
    return merged


def _upload(repo: Repo, mine: Tree, yours: Tree, merged: Tree) -> None:
    """Both branches' files are in the remote when their listings are; then the merged listing may go there too, and a pull finds it."""
    remote = repo.cloud.get_remote_odb(None, "push")
    if remote.exists(mine.oid) and remote.exists(yours.oid):
        remote.add(merged.path, merged.fs, merged.oid)
