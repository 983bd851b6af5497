"""DVC's metadata on disk: one .dvc file for each folder of an experiment, in git, naming a listing of the folder's files and digests.

DVC compares neither a listing nor an object of its remote with the digest that names it, and checks a listing out along whatever paths it
holds: whoever can write to the remote could write any file of whoever pulls (docs/dvc-listings.md). So what comes from the remote is
digested here before it is used, and DVC's own checkout is not called.

It is read and written through DVC's own Python interface, which is not a public one: hence one release of DVC, checked.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.fs.callbacks import TqdmCallback
from dvc.repo import Repo
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.transfer import transfer
from dvc_data.hashfile.tree import Tree
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from saesteer.core.confined import confined
from saesteer.sharing.commands import SharingError, check_release

RELEASE = "3.67"
Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
ListingMd5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}\.dir$")]

log = logging.getLogger(__name__)


class _Output(BaseModel, extra="forbid"):
    """What a .dvc file of ours says of its folder or file."""

    md5: Md5 | ListingMd5
    hash: Literal["md5"]
    path: str
    size: int | None = None
    nfiles: int | None = None


class _DvcFile(BaseModel, extra="forbid"):
    """No command, no dependency and no other working directory: DVC would run the one and write to the other."""

    outs: tuple[_Output]


class _Entry(BaseModel):
    """A line of a folder's listing."""

    relpath: str
    md5: Md5


_LISTING = TypeAdapter(list[_Entry])
_REMEDY = "delete it there, and have it pushed again where it was made (`make push`)"


@dataclass(frozen=True)
class Version:
    """A folder or file of results as a .dvc file names it."""

    path: Path
    digest: str
    """MD5 of the file, or of the folder's listing with `.dir` behind it."""


def dvc_files(folder: Path, experiments: Sequence[str]) -> list[Path]:
    """The .dvc files of experiments, relative to the repository."""
    patterns = [pattern for name in experiments for pattern in (f"data/{name}/*.dvc", f"figures/{name}.dvc")]
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


def read_version(folder: Path, file: Path) -> Version:
    """What a .dvc file names, which is nothing but the folder or file beside it."""
    try:
        (out,) = _DvcFile.model_validate(yaml.safe_load((folder / file).read_text(encoding="utf-8"))).outs
    except (ValidationError, yaml.YAMLError) as error:
        raise SharingError(f"{file} is no file that `make push` writes, so nothing was pulled:\n{error}") from error
    path = confined(folder, str(file.with_suffix("")))
    if out.path != file.stem or path is None:
        raise SharingError(f"{file} does not name the folder or file beside it, but {out.path}, or lies behind a link: nothing was pulled")
    return Version(path, out.md5)


def files_of(repo: Repo, version: Version) -> dict[Path, str] | None:
    """Absolute path -> MD5 of each of a version's files; None where neither cache nor remote has the folder's listing."""
    if not version.digest.endswith(".dir"):
        return {version.path: version.digest}
    data = _listing_bytes(repo, version)
    if data is None:
        return None
    files: dict[Path, str] = {}
    for entry in _LISTING.validate_json(data):
        path = confined(version.path, entry.relpath)
        if path is None or path in files:
            raise SharingError(f"the listing of {version.path} names {entry.relpath!r}, which is not a file of its own below it")
        files[path] = entry.md5
    if within := next((path for path in files if files.keys() & set(path.parents)), None):
        raise SharingError(f"the listing of {version.path} names {within} below another file")
    return files


def _listing_bytes(repo: Repo, version: Version) -> bytes | None:
    """A folder's listing, from DVC's cache or its remote: bytes that have the digest by which git names them."""
    data = _read_listing(repo.cache.local, version)
    if data is None:
        with _remote(repo) as remote:
            data = _read_listing(remote, version)
    return data


def _read_listing(store: Any, version: Version) -> bytes | None:
    held = store.get(version.digest)
    try:
        with held.fs.open(held.path, "rb") as file:
            data: bytes = file.read()
    except FileNotFoundError:
        return None
    if hashlib.md5(data).hexdigest() == version.digest.removesuffix(".dir"):
        return data
    log.error("%s: its listing %s is damaged or forged (git names other bytes), so it is not used: %s", version.path, held.path, _REMEDY)
    return None


@contextmanager
def _remote(repo: Repo) -> Iterator[Any]:
    """DVC's remote. The libraries of each kind of remote have errors of their own, which become one in words."""
    try:
        yield repo.cloud.get_remote_odb(None, "fetch")
    except Exception as error:
        raise SharingError(
            f"the remote could not be read, so nothing was put in place: when it can be, run the same command again: {error}"
        ) from error


def bring(repo: Repo, digests: Collection[str]) -> None:
    """Bring objects from the remote into DVC's cache, where those that have other bytes than their name says are removed."""
    cache = repo.cache.local
    for digest in digests:
        _drop_damaged(cache, digest)
    absent = {HashInfo("md5", digest) for digest in digests if not Path(cache.oid_to_path(digest)).is_file()}
    if not absent:
        return
    with _remote(repo) as remote, TqdmCallback(desc="Fetching", unit="file") as progress:
        transfer(remote, cache, absent, verify=True, callback=progress)
    for version in absent:
        if _drop_damaged(cache, version.value):
            log.error("the remote's object %s is damaged or forged, so it is not used: %s", version.value, _REMEDY)


def _drop_damaged(cache: Any, digest: str) -> bool:
    """Remove an object of DVC's cache that has other bytes than its name says; whether it had."""
    path = Path(cache.oid_to_path(digest))
    if not path.is_file() or md5(path) == digest:
        return False
    path.unlink()
    return True


def md5(path: Path) -> str:
    """MD5 of a file's bytes, by which DVC names them."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


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
        folder = Path(out.fspath)
        mine, yours = (files_of(repo, Version(folder, named.hash_info.value)) for named in (out, other))
        if mine is None or yours is None:
            raise SharingError(
                f"{out.def_path}: neither DVC's cache nor the remote has the {'other' if mine else 'own'} branch's listing of it:"
                " `git merge --abort`, have that branch pushed (`make push`), merge again"
            )
        merged = _union(folder, mine, yours)
        out.cache.add(merged.path, merged.fs, merged.oid)
        _upload(repo, (out.hash_info.value, other.hash_info.value), merged)
        out.hash_info, out.meta, out.files = merged.hash_info, Meta(nfiles=len(merged)), None
        file.dump(stage)


def _union(folder: Path, mine: dict[Path, str], yours: dict[Path, str]) -> Tree:
    merged = Tree()
    for path, digest in (yours | mine).items():
        merged.add(path.relative_to(folder).parts, None, HashInfo("md5", digest))
    merged.digest()
    return merged


def _upload(repo: Repo, branches: tuple[str, str], merged: Tree) -> None:
    """Both branches' files are in the remote when their listings are; then the merged listing may go there too, and a pull finds it."""
    remote = repo.cloud.get_remote_odb(None, "push")
    if all(remote.exists(listing) for listing in branches):
        remote.add(merged.path, merged.fs, merged.oid)
