"""Who runs a workflow in a folder, and what a killed one left: its locks there, and its jobs in SLURM's queue."""

import json
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from saesteer.core.files import write_json
from saesteer.core.machine import installation, is_running, process_table, start
from saesteer.sharing.snakemake_metadata import lock_files

_LAST_RUN = Path(".snakemake/last_run.json")

log = logging.getLogger(__name__)


def record_run(folder: Path) -> float:
    """Note who runs here: another host's process cannot be seen, and another user's does not show what it is. Gives the time by the clock
    of the folder's file system, which may be a server's."""
    process = psutil.Process()
    machine = {"host": socket.gethostname(), "installation": installation(), "table": process_table()}
    write_json(folder / _LAST_RUN, machine | {"process": process.pid, "start": start(process.pid), "user": process.username()})
    return (folder / _LAST_RUN).stat().st_mtime


def stale_locks(folder: Path) -> tuple[list[Path], str | None]:
    """The lock files of a folder, and the process that holds them (None: nobody alive does)."""
    locks = lock_files(folder)
    return locks, other_run(folder) if locks else None


def explain_lock(folder: Path, snakemakes: logging.Logger) -> None:
    """Say what a locked folder means, in place of Snakemake's own message, which advises to unlock it whoever works there."""
    locks, holder = stale_locks(folder)
    if locks:
        snakemakes.addFilter(lambda record: getattr(record, "exception", None) != "LockException")
    if locks and holder:
        log.warning(
            "A workflow is running in this folder (process %s). If this one stops here, both need the same files: wait for the other.",
            holder,
        )
    elif locks:
        log.warning("A run that was killed left its lock here. Give the command `saesteer unlock`, then the same command again.")


def other_run(folder: Path) -> str | None:
    """The process of a run in the folder, besides this one, that is alive, or was started on another machine and may be."""
    if process := _running_in(folder.resolve()):
        return str(process)
    path = folder / _LAST_RUN
    if user := _user_of_new_lock(folder, path):
        return f"of user {user}, whose run has just begun; if it is gone: snakemake --unlock"
    last = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if last is None:
        return None
    same_host = last["host"] == socket.gethostname()
    if same_host and last.get("table") == process_table():
        is_other = last["process"] != os.getpid() and is_running(last["process"], last.get("start"))
        return f"{last['process']} of {last.get('user', 'this host')}; if that is no workflow: snakemake --unlock" if is_other else None
    if same_host and last.get("installation") is not None and last["installation"] == installation():
        return None  # before this host was booted
    return f"{last['process']} on {last['host']}, not seen from here; if it is gone: snakemake --unlock"


def _user_of_new_lock(folder: Path, last_run: Path) -> int | None:
    """The number of another user, whose run has locked the folder and has not yet noted who it is."""
    noted = last_run.stat().st_mtime if last_run.is_file() else 0
    return next((lock.st_uid for lock in map(Path.stat, lock_files(folder)) if lock.st_mtime > noted and lock.st_uid != os.geteuid()), None)


def _running_in(folder: Path) -> int | None:
    """A live snakemake process that works in the folder; what started this one (`uv run snakemake`) and a run's jobs do not count."""
    this_run = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        is_run = any(Path(word).name == "snakemake" for word in command[:3]) and "--mode" not in command
        if is_run and process.info["cwd"] == str(folder) and process.status() != psutil.STATUS_ZOMBIE and process.pid not in this_run:
            return int(process.info["pid"])
    return None


def put_before_slurm(folder: Path, job_variables: Sequence[str]) -> None:
    """Put a folder with commands of our own before SLURM's, on hosts that have a SLURM, and tell them which further variables jobs need."""
    os.environ["SAESTEER_JOB_VARIABLES"] = " ".join(job_variables)
    places = os.environ["PATH"].split(os.pathsep)
    if shutil.which("sbatch") and str(folder) not in places:
        os.environ["PATH"] = os.pathsep.join([str(folder), *places])


def left_jobs(folder: Path) -> list[str]:
    """Ids of this user's jobs that a run in this folder has submitted and that have not ended."""
    if not shutil.which("squeue"):
        return []
    command = ["squeue", "--me", "--noheader", "--format=%i|%Z|%k"]
    rows = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.splitlines()
    jobs = [row.split("|", 2) for row in rows]
    return [number for number, workdir, comment in jobs if Path(workdir) == folder.resolve() and comment.startswith("rule_")]


def cancel_left_jobs(folder: Path, seconds: float = 60) -> None:
    """Cancel what a killed run left in the queue, and wait until it has ended.

    Parts that such a job wrote would do no harm, but its manifest, written later than ours, could hold an older feature set.
    """
    jobs = left_jobs(folder)
    if not jobs:
        return
    if other := other_run(folder):
        log.warning("Jobs in the queue belong to a run of process %s. If that is gone: scancel %s", other, " ".join(jobs))
        return
    log.warning("A run that is gone left jobs %s in the queue: cancelling them; what they have finished is kept.", ", ".join(jobs))
    subprocess.run(["scancel", *jobs], check=True, timeout=60)
    deadline = time.monotonic() + seconds
    while left_jobs(folder) and time.monotonic() < deadline:
        time.sleep(1)
