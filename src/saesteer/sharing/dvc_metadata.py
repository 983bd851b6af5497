"""DVC's metadata on disk: one .dvc file for each folder of an experiment, in git, naming a listing of the folder's files and digests.

DVC compares neither a listing nor an object of its remote with the digest that names it, and checks a listing out along whatever paths it
holds: whoever can write to the remote could write any file of whoever pulls (docs/dvc-listings.md). So what comes from the remote is
digested here before it is used, and DVC's own checkout is not called.

It is read and written through DVC's own Python interface, which is not a public one: hence one release of DVC, checked.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import yaml
from dvc.config import Config
from dvc.dvcfile import load_file
from dvc.exceptions import DvcException
from dvc.fs.callbacks import TqdmCallback
from dvc.lock import make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK
from dvc_data.hashfile.hash_info import HashInfo
from dvc_data.hashfile.meta import Meta
from dvc_data.hashfile.transfer import transfer
from dvc_data.hashfile.tree import Tree
from pydantic import BaseModel, StringConstraints, TypeAdapter, ValidationError

from saesteer.core.files import confined
from saesteer.sharing.commands import SharingError, check_release, git
from saesteer.sharing.provenance import FOLDER, SHARED

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
    isexec: bool = False
    """Whether the file may be executed, as every file may where the file system has no permissions: exFAT, Windows' drives under WSL."""


class _DvcFile(BaseModel, extra="forbid"):
    """No command, no dependency and no other working directory: DVC would run the one and write to the other."""

    outs: tuple[_Output]


class _Entry(BaseModel):
    """A line of a folder's listing."""

    relpath: str
    md5: Md5


_LISTING = TypeAdapter(list[_Entry])
_LARGEST_LISTING = 2**26
"""Bytes of a listing that are read, at most: about half a million files."""
_IN_GIT = {
    "core": {"analytics", "autostage", "check_update", "remote"},
    "remote": {"account_name", "container_name", "endpointurl", "port", "projectname", "region", "url", "user"},
}
"""What .dvc/config may say in git. Other settings name programs that DVC runs, or folders that it writes to, on whoever pulls."""
_TOOLS = (".dvc", ".snakemake")
"""Folders of which git may hold DVC's settings only: the rest is each clone's own."""
_PLAIN_FILES = ("100644", "100755")
"""git's modes of what is neither a link nor another repository."""
_REMEDY = "delete it there, and have it pushed again where it was made (`make push`)"


@contextmanager
def repository(folder: Path) -> Iterator[Repo]:
    """DVC's view of the repository; its errors as ours."""
    check_release("dvc", RELEASE)
    _check_tracked(folder)
    try:
        _check_config(Config(str(folder / ".dvc"), validate=False).read("repo"))
        with Repo(str(folder)) as repo:
            yield repo
    except DvcException as error:
        raise SharingError(f"DVC: {error}") from error


def _check_tracked(folder: Path) -> None:
    """Refuse what git must not bring to where DVC and Snakemake read settings, and where results are read and written."""
    places = [f":(icase){place}" for place in (*_TOOLS, *SHARED, FOLDER)]  # .DVC is .dvc on some file systems
    for line in git(folder, "ls-files", "--stage", "-z", "--", *places).split("\0")[:-1]:
        entry, _, name = line.partition("\t")
        is_of_a_tool = name.partition("/")[0].lower() in _TOOLS and name not in (".dvc/config", ".dvc/.gitignore")
        if is_of_a_tool or not entry.startswith(_PLAIN_FILES):
            raise SharingError(
                f"git holds {name}, by which it could run programs here or write elsewhere, so nothing was done: links, other repositories,"
                f" and files below {' and '.join(_TOOLS)} stay out of git (`git rm --cached` keeps one that is yours)"
            )


def _check_config(config: Mapping[str, Any]) -> None:
    """Refuse a .dvc/config with settings that git must not bring."""
    settings = [(section, name) for section, values in config.items() if section != "remote" for name in values]
    settings += [("remote", name) for values in config.get("remote", {}).values() for name in values]
    if foreign := [f"{section}.{name}" for section, name in settings if name not in _IN_GIT.get(section, ())]:
        raise SharingError(
            f".dvc/config has {', '.join(sorted(set(foreign)))}, by which git could run programs here or write elsewhere, so nothing was"
            " done: if the settings are yours, move them to .dvc/config.local (`dvc config --local`)"
        )


def remove_broken_lock(repo: Repo) -> None:
    """Remove DVC's list of who reads and writes what, where it is not whole: a DVC that was killed while it wrote the list leaves half of
    it, and each later one then ends with an error."""
    tmp = Path(repo.tmp_dir)
    guard = make_lock(str(tmp / RWLOCK_LOCK), tmp_dir=str(tmp), hardlink_lock=repo.config["core"].get("hardlink_lock", False))
    with guard:  # so that none is writing it now
        try:
            json.loads((tmp / RWLOCK_FILE).read_bytes())
        except FileNotFoundError:
            return
        except ValueError:
            (tmp / RWLOCK_FILE).unlink()


def read_version(folder: Path, file: Path) -> tuple[Path, str]:
    """What a .dvc file names: the folder or file beside it and nothing else, and the MD5 of that file, or of the folder's listing with
    `.dir` behind it."""
    try:
        text = (folder / file).read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise SharingError(f"{file} has a YAML alias, which `make push` never writes: nothing was pulled")
        (out,) = _DvcFile.model_validate(yaml.safe_load(text)).outs
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SharingError(f"{file} is no file that `make push` writes, so nothing was pulled:\n{error}") from error
    path = confined(folder, str(file.with_suffix("")))
    if out.path != file.stem or path is None:
        raise SharingError(f"{file} does not name the folder or file beside it, but {out.path}, or lies behind a link: nothing was pulled")
    return path, out.md5


def files_of(repo: Repo, path: Path, digest: str) -> dict[Path, str] | None:
    """Absolute path -> MD5 of each file of a version; None where neither cache nor remote has the folder's listing."""
    if not digest.endswith(".dir"):
        return {path: digest}
    listing = _read_listing(repo.cache.local, path, digest)
    if listing is None:
        with _remote(repo) as remote:
            listing = _read_listing(remote, path, digest)
    if listing is None:
        return None
    files: dict[Path, str] = {}
    try:
        entries = _LISTING.validate_json(listing)
    except ValidationError as error:
        raise SharingError(f"what git names as the listing of {path} is none, so nothing was pulled:\n{error}") from error
    for entry in entries:
        file = confined(path, entry.relpath)
        if file is None or file in files:
            raise SharingError(f"the listing of {path} names {entry.relpath!r}, which is not a file of its own below it")
        files[file] = entry.md5
    if within := next((file for file in files if files.keys() & set(file.parents)), None):
        raise SharingError(f"the listing of {path} names {within} below another file")
    return files


def _read_listing(store: Any, path: Path, digest: str) -> bytes | None:
    """A folder's listing in DVC's cache or its remote: bytes that have the digest by which git names them."""
    stored = store.get(digest)
    try:
        with stored.fs.open(stored.path, "rb") as file:
            data: bytes = file.read(_LARGEST_LISTING)  # a longer one does not have the digest
    except FileNotFoundError:
        return None
    if hashlib.md5(data).hexdigest() == digest.removesuffix(".dir"):
        return data
    log.error("%s: its listing %s is damaged or forged (git names other bytes), so it is not used: %s", path, stored.path, _REMEDY)
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


def merge_versions(ours: Path, theirs: Path, merged_as: Path) -> None:
    """Write the union of two .dvc files' folders into `ours`; of two versions of a single file, ours stays. `merged_as` is the place of the
    result in the repository of git, at whose top all paths begin.

    Parts are named by their content, so the union of both listings is right. Manifests, tables and figures may differ: ours are taken, and
    since they disagree with the merged configuration, Snakemake makes them again without computing a row. DVC's own driver stops at such
    files, and needs the other branch's listing in the local cache; this one fetches it.
    """
    top = Path().resolve()
    project = next((folder for folder in (top / merged_as).parents if (folder / ".dvc").is_dir()), top)
    # DVC reads .dvc files below its own folder only, and git gives ours and theirs at the top.
    with repository(project) as repo, TemporaryDirectory(prefix=".merge-", dir=project) as scratch:
        mine, yours = (shutil.copyfile(path, Path(scratch, f"{name}.dvc")) for name, path in (("ours", ours), ("theirs", theirs)))
        _write_union(repo, mine, yours)
        shutil.copyfile(mine, ours)


def _write_union(repo: Repo, ours: Path, theirs: Path) -> None:
    file = load_file(repo, str(ours), verify=False)
    stage = file.stage
    out, other = stage.outs[0], load_file(repo, str(theirs), verify=False).stage.outs[0]
    if not (out.is_dir_checksum and other.is_dir_checksum):
        return
    folder = Path(out.fspath)
    mine, yours = (files_of(repo, folder, branch.hash_info.value) for branch in (out, other))
    if mine is None or yours is None:
        raise SharingError(
            f"{out.def_path}: neither DVC's cache nor the remote has the {'other' if mine else 'own'} branch's listing of it:"
            " `git merge --abort`, have that branch pushed (`make push`), merge again"
        )
    merged = Tree()
    for path, digest in (yours | mine).items():
        merged.add(path.relative_to(folder).parts, None, HashInfo("md5", digest))
    merged.digest()
    out.cache.add(merged.path, merged.fs, merged.oid)
    # Where the remote has both listings it has both branches' files, and the merged listing may go there too, so that a pull finds it.
    remote = repo.cloud.get_remote_odb(None, "push")
    if all(remote.exists(branch.hash_info.value) for branch in (out, other)):
        remote.add(merged.path, merged.fs, merged.oid)
    out.hash_info, out.meta, out.files = merged.hash_info, Meta(nfiles=len(merged)), None
    file.dump(stage)
