"""A full disk, a read-only folder, a lock that a killed run left, two runs at once: one clear message each, and nothing is lost. And file
systems that know less than most."""

import errno
import fcntl
import os
import posix
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from run_records import due, run_measured
from workflow_folder import Folder

from saesteer.core.errors import SettingsError
from saesteer.core.files import _flush, alone_in, file_digest, write_json

CHANGE = {"judge": {"oracle": "oracle"}}
"""Another rubric for the judge: the cheapest change that computes rows."""
TARGETS = ["data/micro/judge/layers_02-06.json", "data/micro/tables/steering.parquet"]


@dataclass(frozen=True)
class Disk:
    """A small disk of its own under a folder's data/micro."""

    path: Path

    def mount(self, *options: str) -> None:
        done = subprocess.run(["mount", *options, str(self.path)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"a small tmpfs cannot be mounted here (needs root): {done.stderr.strip()}")

    @property
    def ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, leaving: int) -> None:
        size = shutil.disk_usage(self.path).free - leaving
        with self.ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


@pytest.fixture
def folder(finished: Folder, tmp_path: Path) -> Folder:
    """The finished experiment with a change that is due."""
    folder = finished.copy(tmp_path / "repo")
    shutil.copytree(folder.path / "data/world/oracle", folder.path / "oracle")
    with (folder.path / "oracle/oracle.json").open("a") as file:
        file.write("\n")
    folder.edit("micro", **CHANGE)
    return folder


@pytest.fixture
def disk(folder: Folder) -> Iterator[Disk]:
    """The folder's data/micro moved to a disk of its own."""
    path = folder.path / "data/micro"
    path.rename(folder.path / "aside")
    path.mkdir()
    disk = Disk(path)
    disk.mount("-t", "tmpfs", "-o", "size=24m", "tmpfs")
    try:
        shutil.copytree(folder.path / "aside", path, dirs_exist_ok=True)
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def assert_nothing_lost(folder: Folder, before: dict[str, set[Path]]) -> None:
    assert all(parts <= folder.parts()[step] for step, parts in before.items())
    assert all(file_digest(part) == part.stem for parts in folder.parts().values() for part in parts)
    assert not list((folder.path / "data/micro").rglob("*.partial"))


@pytest.mark.slow
def test_a_full_disk(folder: Folder, disk: Disk) -> None:
    before = folder.parts()
    disk.fill(leaving=8192)
    code, output = folder.run(*TARGETS)
    assert code != 0
    assert output.count("the disk is full: free some space and run the same command again; what is finished is kept") == 1, output
    assert_nothing_lost(folder, before)
    kept = sum(pl.read_parquet(part).height for part in folder.parts()["judge"] - before["judge"])
    disk.ballast.unlink()
    assert run_measured(folder, *TARGETS).n_rows == {"judge": 96 - kept}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_read_only_folder(folder: Folder, disk: Disk) -> None:
    before = folder.parts()
    disk.mount("-o", "remount,ro")
    code, output = folder.run(*TARGETS)
    assert code != 0
    assert output.count("no permission to write in data/micro: make it writable, or name another place") == 1, output
    assert "no permission to write" in folder.run("--dry-run", *TARGETS)[1]
    assert_nothing_lost(folder, before)
    disk.mount("-o", "remount,rw")
    assert run_measured(folder, *TARGETS).n_rows == {"judge": 96}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_job_that_failed_is_due_again_with_all_that_reads_it(folder: Folder) -> None:
    """Snakemake records a failed job as done with its new inputs, and its output is neither a table nor a figure that one looks at."""
    (folder.path / "oracle/oracle.json").write_text("{}")
    before = folder.parts()
    code, output = folder.run()
    assert code != 0
    assert "logs/micro/judge/layers_02-06.log" in output
    assert_nothing_lost(folder, before)
    assert {"judge", "steering_table", "outcomes", "metrics", "figure"} <= set(due(folder))


def wait_for_lock(folder: Folder) -> None:
    deadline = time.monotonic() + 120
    while not list((folder.path / ".snakemake/locks").glob("*.lock")):
        assert time.monotonic() < deadline, "the run never locked its folder"
        time.sleep(0.05)


def unlock(folder: Folder) -> subprocess.CompletedProcess[str]:
    return folder.call("saesteer", "unlock")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_lock_left_by_a_killed_run(folder: Folder) -> None:
    process = folder.start(*TARGETS, "--forcerun", "pin", cold=True)
    wait_for_lock(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = folder.parts()
    code, output = folder.run(*TARGETS, cold=True)
    assert code != 0
    assert "A run that was killed left its lock here. Give the command `saesteer unlock`" in output
    assert "removed the lock of a run that is gone" in unlock(folder).stdout
    assert "no run has left a lock" in unlock(folder).stdout
    assert run_measured(folder, *TARGETS).n_rows == {"judge": 96}
    assert_nothing_lost(folder, before)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_runs_at_once(folder: Folder) -> None:
    first = folder.start(*TARGETS, "--forcerun", "pin")
    wait_for_lock(folder)
    code, output = folder.run(*TARGETS)
    refused = unlock(folder)
    assert first.wait(timeout=300) == 0
    assert code != 0
    assert "A workflow is running in this folder" in output
    assert refused.returncode == 1
    assert "a workflow is running here" in refused.stderr


def test_read_only_and_full_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int):
        def replace(self: Path, target: Path) -> None:
            raise OSError(number, os.strerror(number), str(target))

        return replace

    for number, advice in ((28, "the disk is full"), (30, "no permission to write in"), (13, "no permission to write in")):
        monkeypatch.setattr(Path, "replace", refuse(number))
        with pytest.raises(OSError, match=advice):
            write_json(tmp_path / "a.json", {})
        assert not list(tmp_path.iterdir())


def test_where_folders_cannot_be_flushed_files_still_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a shared folder of a virtual machine: the kernel says EINVAL, of what lies in /proc too."""
    monkeypatch.setattr(os, "fsync", posix.fsync)  # the one of the tests waits for no disk
    _flush(tmp_path)
    _flush(Path("/proc/self"))
    with pytest.raises(OSError, match="Invalid argument"):
        _flush(Path("/proc/self/status"))


def test_a_file_system_without_locks_is_fetched_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Lustre mounted without flock."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.warns(UserWarning, match="flock not supported"), alone_in(tmp_path / "downloads"):
        (tmp_path / "downloads/file").write_text("fetched")
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["file"]


@pytest.mark.parametrize("what", ["pipe", "link to a device", "folder"])
def test_a_file_takes_no_place_of_something_else(what: str, tmp_path: Path) -> None:
    """As root `--output /dev/null` would take that from every program of the machine."""
    path = tmp_path / "out.json"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(SettingsError, match="cannot be written: it is no file but a"):
        write_json(path, {})
    assert not path.is_file()
    assert list(tmp_path.iterdir()) == [path]
