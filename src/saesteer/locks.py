"""Locks that a killed workflow left in its folder."""

from pathlib import Path

import psutil

LOCKS = Path(".snakemake/locks")


def stale_locks(folder: Path) -> tuple[list[Path], int | None]:
    """The lock files of a folder, and the process of this host that holds them (None: nobody alive does)."""
    locks = sorted((folder / LOCKS).glob("*.lock"))
    return locks, _running_in(folder.resolve()) if locks else None


def _running_in(folder: Path) -> int | None:
    """A live snakemake process that works in the folder."""
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        is_snakemake = any(Path(word).name == "snakemake" for word in command[:3])
        if is_snakemake and process.info["cwd"] == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
            return int(process.info["pid"])
    return None
