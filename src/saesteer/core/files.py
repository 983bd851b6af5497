"""Files that are never half-written: temporary name, fsync, rename; and their digests. And what is refused of paths, tensors and archives
that come from elsewhere."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from safetensors import SafetensorError, safe_open

from saesteer.core.errors import SettingsError
from saesteer.core.machine import exists, process_table

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_DAY = 86_400.0
_SMALL = 2**20
"""Bytes that temporary files may take."""
_LONGEST_NAME = 255
"""Bytes of a file's name that file systems take."""
_LONGEST_PATH = 4095
"""Bytes of a path that Linux takes."""
LARGEST_RATIO = 200
"""Most bytes that a compressed one may stand for: texts have some 10, JSON of activations some 40, and a few bytes can be made to stand for
a thousand times as many."""

log = logging.getLogger(__name__)


Arguments = ParamSpec("Arguments")


def _with_advice(write: Callable[Concatenate[Path, Arguments], None]) -> Callable[Concatenate[Path, Arguments], None]:
    """A function that writes to a path, saying of a full or closed disk what to do about it."""

    @functools.wraps(write)
    def advising(path: Path, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            write(path, *args, **kwargs)
        except Exception as error:
            if advice := _advice(_errno(error), path):
                raise OSError(_errno(error), advice, str(path)) from error
            raise

    return advising


@_with_advice
def write_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a new folder beside the target, which then takes the target's name and place. Of several that are written at once the
    last takes it."""
    make_folder(folder.parent)
    remove_abandoned(folder.parent, folder.name)
    with tempfile.TemporaryDirectory(prefix=_partial_prefix(folder), suffix=".partial", dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        write(made)
        while True:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(tempfile.mkdtemp(dir=scratch))
            try:
                made.rename(folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another's took the place in between
                    raise


def _partial_prefix(path: Path) -> str:
    return f".{path.name}.{process_table() or socket.gethostname()}-{os.getpid()}."


@_with_advice
def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` on a temporary path in the target's folder, flush it to disk, give it its name. On failure nothing is left. Refused
    where the name is a pipe's, a device's or a folder's, which the file would take the place of."""
    if path.exists() and not path.is_file():
        raise SettingsError(f"{path} cannot be written: it is no file but a {'folder' if path.is_dir() else 'pipe or a device'}")
    make_folder(path.parent)
    remove_abandoned(path.parent, path.name)
    descriptor, name = tempfile.mkstemp(prefix=_partial_prefix(path), suffix=".partial", dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        write(partial)
        partial.chmod(0o644)
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there: of two jobs that make the same file in it the second waits for the first."""
    from filelock import FileLock  # which a command's start does without

    make_folder(folder)
    with FileLock(folder / ".lock"):
        yield


@_with_advice
def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless it is there; each is flushed into the one that names it, as a flushed file in a folder that
    is lost is lost."""
    if not folder.is_dir():
        if not folder.parent.exists():
            make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _flush(folder.parent)


def remove_abandoned(folder: Path, name: str = "*") -> None:
    """Remove the temporary files and folders that killed processes left behind for one of this name (a glob pattern) in a folder.

    Abandoned is what no process can still be writing: its process of this machine is gone, or it is another machine's and a day old.
    """
    for partial in folder.glob(f".{name}.*.partial"):
        if _may_be_written(partial):
            continue
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def _may_be_written(partial: Path) -> bool:
    writer = re.search(rf"\.{process_table()}-(\d+)\.[^.]+\.partial$", partial.name)
    return exists(int(writer[1])) if writer else time.time() - partial.stat().st_mtime < _DAY


def _errno(error: Exception) -> int | None:
    """The operating system's number of an error; libraries written in Rust (safetensors, polars) give it in their message only."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def _advice(number: int | None, path: Path) -> str | None:
    """What to do about the errors of the operating system that a user can do something about."""
    if number in _FULL:
        return "the disk is full: free some space and run the same command again; what is finished is kept"
    if number in _CLOSED:
        return (
            f"no permission to write in {path.parent}: make it writable, or name another place (data_dir, figures_dir in the"
            " configuration), and run the same command again; what is finished is kept"
        )
    return None


def explain_read_only(folder: Path) -> None:
    """Say that results cannot be written to a folder, and what to do, before Snakemake refuses in its own words."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        log.warning("%s: %s", folder, _advice(errno.EROFS, existing / "any"))


def check_temporary_folder() -> None:
    """Refuse a full disk where Snakemake's solver puts its files, whose own error names no path."""
    folder = os.environ.get("TMP") or os.environ.get("TMPDIR") or "/tmp"
    if os.path.isdir(folder) and shutil.disk_usage(folder).free < _SMALL:
        raise SettingsError(
            f"the disk of {folder}, the folder of temporary files, is full: free some space, or set TMPDIR (and TMP, where it is set) to"
            " another folder, and run the same command again"
        )


def check_braces(folder: Path) -> None:
    """Refuse a place in whose path Snakemake and DVC see variables."""
    if re.search("[{}]", str(folder.resolve())):
        raise SettingsError(f"{folder.resolve()}: Snakemake and DVC take braces in a path for variables: move or rename the folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values are equal bytes."""
    write_text(path, json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file from elsewhere; refused where it holds none."""
    try:
        return json.loads(regular_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} is not readable as JSON: {error}") from error


def _flush(path: Path) -> None:
    """Flush a file or folder to disk; some network and shared drives know no flushing of folders, and say so by EINVAL."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def regular_file(path: Path) -> Path:
    """The path of a file that is to be read; refused where there is none, or something else, such as a pipe, whose end never comes."""
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "it is no file but a pipe or a device" if path.exists() else "there is no such file"
        raise SettingsError(f"{path} cannot be read: {what}")
    return path


def safetensors_fault(file: Path) -> str | None:
    """What is wrong with a safetensors file's header or length, None when it can be read. Reads the header only."""
    try:
        with safe_open(regular_file(file), framework="numpy"):
            return None
    except (SafetensorError, OSError, SettingsError) as error:
        return str(error)


def zip_fault(file: Path) -> str | None:
    """Why a zip archive is not read; None where it may be. Readers stop at the sizes that its directory gives."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile as error:
        return f"it is no zip archive that can be read ({error})"
    if unpacked > LARGEST_RATIO * file.stat().st_size:
        return f"it unpacks to {unpacked / 2**20:.0f} MiB, more than {LARGEST_RATIO} times its size, so it is not read"
    return None


def leads_below(name: str) -> bool:
    """Whether a name is a path below a folder, whichever: neither absolute nor with `..`, and one that file systems take."""
    parts = name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\0" in name or "\\" in name:
        return False
    return all(len(part.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME for part in parts)


def confined(folder: Path, name: str) -> Path | None:
    """The path of a name below a folder; None for one that would lie elsewhere (absolute, with `..`, or through a link) or nowhere."""
    if not leads_below(name):
        return None
    parts = name.split("/")
    path = folder.joinpath(*parts)
    if len(str(path).encode("utf-8", "surrogatepass")) > _LONGEST_PATH:
        return None
    return None if any(parent.is_symlink() for parent in path.parents[: len(parts) - 1]) else path


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_digest(values: Any) -> str:
    """SHA-256 of a JSON value written canonically, in hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def text_id(text: str) -> str:
    """Name of a text in keys: the first 16 hex digits of the SHA-256 of its UTF-8 bytes, so an edited text is a new key."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
