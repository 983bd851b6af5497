"""Locks that a killed workflow left in its folder, and who runs a workflow there."""

import json
import logging
import os
import socket
from pathlib import Path

import psutil

from saesteer.core.files import write_json
from saesteer.sharing.snakemake_metadata import lock_files

_LAST_RUN = Path(".snakemake/last_run.json")

log = logging.getLogger(__name__)


def record_run(folder: Path) -> None:
    """Note who runs here: on another host of a shared file system the process cannot be seen."""
    write_json(folder / _LAST_RUN, {"host": socket.gethostname(), "process": os.getpid()})


def stale_locks(folder: Path) -> tuple[list[Path], str | None]:
    """The lock files of a folder, and the process that holds them (None: nobody alive does)."""
    locks = lock_files(folder)
    return locks, other_run(folder) if locks else None


def explain_lock(folder: Path) -> None:
    """Say what a locked folder means, before Snakemake refuses it."""
    locks, holder = stale_locks(folder)
    if locks and holder:
        log.warning("A workflow is running in this folder (process %s): wait for it.", holder)
    elif locks:
        log.warning("A run that was killed left its lock here. Give the command `saesteer unlock`, then the same command again.")


def other_run(folder: Path) -> str | None:
    """The process of a run in the folder, besides this one, that is alive, or was started on another host and may be."""
    if process := _running_in(folder.resolve()):
        return str(process)
    path = folder / _LAST_RUN
    last = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if last and last["host"] != socket.gethostname():
        return f"{last['process']} on {last['host']}, not seen from here; if it is gone: snakemake --unlock"
    return None


def _running_in(folder: Path) -> int | None:
    """A live snakemake process that works in the folder; those that a run started for its jobs do not count."""
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        is_run = any(Path(word).name == "snakemake" for word in command[:3]) and "--mode" not in command
        if is_run and process.info["cwd"] == str(folder) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            return int(process.info["pid"])
    return None
