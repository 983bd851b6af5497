"""The shipped model's workflow in a control group of 2 GiB, as SLURM and containers set one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from workflow_folder import Folder

from saesteer.engine.continuation import MOST_ROWS
from saesteer.engine.memory import GIB

LIMIT = 2 * GIB
GROUPS = Path("/sys/fs/cgroup/memory")
STEP = "generations"
OTHER_PROGRAM = """
import sys
sys.stdin.readline()
held = b"1" * int(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def control_group(n_others: int) -> Iterator[Callable[[int], None]]:
    """A group of `LIMIT` bytes in which another program holds so many; gives what puts a process into it."""
    group = GROUPS / f"saesteer-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here (needs root and version 1's memory controller): {error}")

    def join(process: int) -> None:
        (group / "cgroup.procs").write_text(str(process))

    (group / "memory.limit_in_bytes").write_text(str(LIMIT))
    command = [sys.executable, "-c", OTHER_PROGRAM, str(n_others)]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        join(other.pid)
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write("now\n")  # what it allocates is charged to the group that it is in by then
        assert other.stdout.readline() == "held\n"
        yield join
    finally:
        other.kill()
        other.communicate()
        group.rmdir()


@pytest.mark.exhaustive
def test_in_2_gib_shared_with_another_program_the_batch_falls_and_every_row_is_the_same(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    shutil.rmtree(folder.path / "data/micro" / STEP)
    with control_group(n_others=int(1.45 * GIB)) as join:
        process = folder.start("--cores", "1", f"data/micro/{STEP}/layers_02-06.json", cold=True)
        join(process.pid)
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert f"rows at a time instead of {MOST_ROWS[0]}" in (folder.path / f"logs/micro/{STEP}/layers_02-06.log").read_text()
    assert folder.table(STEP).equals(finished.table(STEP))
