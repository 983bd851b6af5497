"""This machine: what libraries take for granted of it, and its processes. Two hosts, or two containers, may have one name, and processes of
one number."""

import getpass
import hashlib
import io
import os
import socket
import sys
from pathlib import Path

_PID_NAMESPACE = Path("/proc/self/ns/pid")
_OF_NO_CONTAINER = 0xEFFFFFFC
"""Linux' number of the namespace that is no container's."""


def complete_environment() -> None:
    """Provide what Snakemake, DVC and torch take for granted, and a container lacks: a user's name, a home that can be written to (in
    .snakemake of the current folder), and a terminal that shows any text, if need be with other characters."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
    if not _has_home():
        os.environ["HOME"] = str(Path(".snakemake/home").absolute())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _has_home() -> bool:
    """Whether there is a home that caches can be in."""
    try:
        home = Path.home()
    except RuntimeError:
        return False
    return (home / ".cache").exists() or os.access(home, os.W_OK)


def process_table() -> str | None:
    """Name of the table in which this process has its number: of this host since it was booted, and of this container. None where the
    system does not say (macOS)."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not (boot.is_file() and _PID_NAMESPACE.exists()):
        return None
    return _name(boot.read_text(), str(_PID_NAMESPACE.stat().st_ino))


def installation() -> str | None:
    """This host's number, the same after a reboot; None in a container, whose image may have the number too, or where there is none."""
    number = Path("/etc/machine-id")
    is_host = _PID_NAMESPACE.exists() and _PID_NAMESPACE.stat().st_ino == _OF_NO_CONTAINER
    return _name(number.read_text()) if is_host and number.is_file() else None


def _name(*values: str) -> str:
    return hashlib.sha256("\n".join([socket.gethostname(), *values]).encode()).hexdigest()[:16]


def exists(process: int) -> bool:
    """Whether this table has a process of this number, of whichever user, hidden or not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def start(process: int) -> str | None:
    """When a process started, in ticks since the boot; None where the system does not say."""
    status = _status(process)
    return status[19] if status else None


def is_running(process: int, since: str | None) -> bool:
    """Whether a process that started then is alive; of one that the system hides from this user, its number has to do."""
    status = _status(process)
    return status[0] != "Z" and status[19] == since if status else exists(process)


def _status(process: int) -> list[str] | None:
    """What Linux says of a process, after its name: first its state (Z: it has ended)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended, or is hidden, or this is no Linux
        return None
