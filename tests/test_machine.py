"""Hosts, containers and users that are easily taken for one another: whose temporary files and whose runs are whose."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core import machine
from saesteer.core.files import remove_abandoned, write_atomically, write_text
from saesteer.workflow.locks import other_run, record_run, stale_locks

NOBODY, SOMEBODY = 65534, 54321
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="processes of other users are started by root only")


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    return process.pid


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder with a lock, that all users see."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / ".snakemake/locks").mkdir(parents=True)
        (folder / ".snakemake/locks/0.input.lock").touch()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o777)
        yield folder


def last_run(folder: Path, **changes: Any) -> None:
    """Lay changes over what the last run recorded."""
    path = folder / ".snakemake/last_run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def partial_of_here(folder: Path) -> str:
    """The name of a temporary file as this process makes it."""
    names: list[str] = []
    write_atomically(folder / "a.txt", lambda partial: names.append(partial.name))
    return names[0]


@pytest.mark.parametrize(
    ("writer", "stays"),
    [
        pytest.param(lambda here, gone: f".a.txt.x{socket.gethostname()}-{gone}.abc.partial", True, id="a name that ends as this host's"),
        pytest.param(lambda here, gone: f".a.txt.{socket.gethostname()}-{gone}.abc.partial", True, id="a host of the same name"),
        pytest.param(lambda here, gone: here, True, id="this process"),
        pytest.param(lambda here, gone: here.replace(f"-{os.getpid()}.", f"-{gone}."), False, id="a killed process of this host"),
    ],
)
def test_temporary_files_that_another_may_still_write_stay(
    tmp_path: Path, gone: int, writer: Callable[[str, int], str], stays: bool
) -> None:
    partial = tmp_path / writer(partial_of_here(tmp_path), gone)
    partial.write_text("half")
    write_text(tmp_path / "a.txt", "b")
    assert partial.exists() == stays
    partial.touch()
    day_old = time.time() - 90_000
    os.utime(partial, (day_old, day_old))
    remove_abandoned(tmp_path)
    assert partial.exists() == (str(os.getpid()) in partial.name)


def test_containers_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine.process_table()
    monkeypatch.setattr(machine, "_PID_NAMESPACE", Path("/proc/self/ns/mnt"))
    assert machine.process_table() not in (None, here)
    assert machine.installation() is None
    monkeypatch.setattr(machine, "_PID_NAMESPACE", Path("/proc/self/ns/none"))
    assert machine.process_table() is None


@contextmanager
def process_of(user: int, do: Callable[[], Any]) -> Iterator[tuple[int, Any]]:
    """A process of another user that does something and then waits: its number, and what came of it."""
    read, write = os.pipe()
    if (process := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.write(write, json.dumps(do()).encode() + b"\n")
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    try:
        with open(read) as answers:
            yield process, json.loads(answers.readline())
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def holder_seen_by(user: int, folder: Path) -> str | None:
    """Who holds the folder's lock, as far as a user can see."""
    with process_of(user, lambda: stale_locks(folder)[1]) as (_, holder):
        return holder


@as_root
def test_another_user_s_run_is_seen(locked: Path) -> None:
    def run() -> None:
        os.chdir(locked)
        record_run(locked)

    with process_of(NOBODY, run) as (process, _):
        for user in (SOMEBODY, 0):
            assert holder_seen_by(user, locked) == f"{process} of nobody; if that is no workflow: snakemake --unlock"
    assert holder_seen_by(SOMEBODY, locked) is None


@as_root
def test_another_user_s_process_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    with process_of(NOBODY, lambda: None) as (process, _):
        monkeypatch.setattr(machine, "_status", lambda process: None)
        with process_of(SOMEBODY, lambda: machine.is_running(process, "1")) as (_, is_alive):
            assert is_alive
    assert not machine.is_running(process, "1")


def test_a_zombie_is_gone(locked: Path) -> None:
    record_run(locked)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    last_run(locked, process=process.pid, start=machine.start(process.pid))
    assert other_run(locked) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert other_run(locked) is None
    process.communicate()


@as_root
def test_a_number_given_again_is_no_run(locked: Path) -> None:
    with process_of(NOBODY, lambda: record_run(locked)):
        last_run(locked, start="1")
        assert holder_seen_by(SOMEBODY, locked) is None


@as_root
def test_another_user_s_new_lock_is_held(locked: Path) -> None:
    with process_of(NOBODY, lambda: record_run(locked)):
        pass
    (lock,) = (locked / ".snakemake/locks").iterdir()
    os.utime(lock, (time.time() + 9, time.time() + 9))
    os.chown(lock, NOBODY, NOBODY)
    assert holder_seen_by(SOMEBODY, locked) == f"of user {NOBODY}, whose run has just begun; if it is gone: snakemake --unlock"
    assert holder_seen_by(NOBODY, locked) is None


def test_a_run_on_another_host_of_the_same_name_is_not_taken_for_gone(locked: Path, gone: int) -> None:
    record_run(locked)
    last_run(locked, process=gone, table="of another", installation="of another")
    result = CliRunner().invoke(app, ["unlock", "--folder", str(locked)])
    assert result.exit_code == 1
    assert f"process {gone} on {socket.gethostname()}, not seen from here; if it is gone: snakemake --unlock" in result.output


def test_a_run_from_before_a_reboot_is_gone(locked: Path, gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saesteer.workflow.locks.installation", lambda: "of this host")
    record_run(locked)
    last_run(locked, process=os.getppid(), table="before the reboot")
    assert other_run(locked) is None
    last_run(locked, installation=None)
    assert other_run(locked) is not None


def test_what_started_this_process_is_no_other_run(locked: Path) -> None:
    """As with `uv run snakemake`: the first process has snakemake in its command line too."""
    asks = "from pathlib import Path; from saesteer.workflow.locks import other_run; print(other_run(Path()))"
    starter = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[-1]], check=True)"
    started = [sys.executable, str(locked / "snakemake"), asks]
    (locked / "snakemake").write_text(starter)
    assert subprocess.run(started, cwd=locked, capture_output=True, text=True, check=True).stdout == "None\n"
