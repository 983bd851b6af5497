"""`snakemake --profile slurm` on the micro experiment, disturbed in every way that clusters know, against an undisturbed run."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psutil
import pytest
from slurm_node import ClusterRun, Node, wait_for
from workflow_folder import BIN, Folder

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
SWEEP = {"factors": [0, 0.4, 1, 2, 3, 4, 8], "n_prefixes": 20}
N_WANTED, N_THERE = 8 * 7 * 20, 8 * 3 * 4  # the finished run has factors 0, 2 and 4 on the first four prefixes
TARGET = "data/micro/generations/layers_02-06.json"
# A sweep needs more than 500 MB and less than 2000: the first attempt is killed for memory, the second is not.
TOO_SMALL_AT_FIRST = ("--default-resources", "slurm_partition=gpu", "mem_mb=500 if attempt == 1 else 2500", "runtime=60")
ENOUGH = ("--default-resources", "slurm_partition=gpu", "mem_mb=2500", "runtime=60")


def n_rows(parts: set[Path]) -> int:
    return sum(pl.read_parquet(part, columns=["factor"]).height for part in parts)


@pytest.fixture(scope="module")
def undisturbed(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A longer sweep, run in the ordinary way."""
    folder = finished.copy(tmp_path_factory.mktemp("undisturbed") / "repo")
    folder.edit("micro", sweep=SWEEP)
    code, output = folder.run(TARGET)
    assert code == 0, output
    return folder


class Sweep:
    """The longer sweep in a folder of its own, on the cluster, a part for every batch."""

    def __init__(self, folder: Folder, node: Node) -> None:
        self.folder, self.node = folder, node
        folder.edit("micro", sweep=SWEEP)
        self.before = folder.parts()["generations"]
        self.seen = set(node.jobs())

    def start(self, *arguments: str) -> ClusterRun:
        return self.node.run(self.folder, TARGET, *arguments, experiments="[micro]", part_seconds=0)

    @property
    def new_parts(self) -> set[Path]:
        return self.folder.parts()["generations"] - self.before

    @property
    def jobs(self) -> dict[str, dict[str, str]]:
        """The jobs of this sweep, oldest first."""
        return {number: job for number, job in self.node.jobs().items() if number not in self.seen}

    def hold_half_way(self) -> None:
        """Wait for the first parts, then halt the job, since on a quick machine the rest takes a second; scancel wakes it up."""
        wait_for("two parts of the sweep", lambda: len(self.new_parts) >= 2, 240)
        place = f"{self.folder.path}/.snakemake/scripts/"
        commands = [(process, (process.info["cmdline"] or [""])[-1]) for process in psutil.process_iter(["cmdline"])]
        (script,) = [process for process, command in commands if command.startswith(place) and command.endswith("step.py")]
        script.suspend()

    def log(self) -> str:
        return (self.folder.path / "logs/micro/generations/layers_02-06.log").read_text()


def test_after_kill_9_of_snakemake_its_jobs_are_stopped_and_gone_on_from(
    node: Node, finished: Folder, undisturbed: Folder, tmp_path: Path
) -> None:
    sweep = Sweep(finished.copy(tmp_path / "repo"), node)
    run = sweep.start(*ENOUGH)
    sweep.hold_half_way()
    run.kill()
    code, printed = sweep.start(*ENOUGH).finish()
    assert code != 0
    assert "saesteer unlock" in printed
    subprocess.run([BIN / "saesteer", "unlock"], cwd=sweep.folder.path, check=True)
    code, printed = sweep.start(*ENOUGH).finish()
    assert code == 0, printed
    assert "A run that is gone left jobs" in printed
    assert [job["JobState"] for job in sweep.jobs.values()] == ["CANCELLED", "COMPLETED"]
    assert n_rows(sweep.new_parts) == N_WANTED - N_THERE, "a row was computed twice"
    assert sweep.folder.table("generations").equals(undisturbed.table("generations"))


def test_a_failing_rule_stops_its_descendants_only(node: Node, finished: Folder, tmp_path: Path) -> None:
    """The output score cannot be written; perplexity and what follows from it are made."""
    folder = finished.copy(tmp_path / "repo")
    data = folder.path / "data/micro"
    for step in ("output_score", "perplexity"):
        (data / step / "layers_02-06.json").unlink()
    for parts in list((data / "output_score").iterdir()):
        shutil.rmtree(parts)
        parts.write_text("a file where a folder has to be")
    tables = [f"data/micro/tables/{name}.parquet" for name in ("steering", "features")]
    before = {name: (folder.path / name).stat().st_mtime_ns for name in tables}
    due = ("--forcerun", "output_score", "perplexity", "--retries", "0")
    code, printed = node.run(folder, *tables, *ENOUGH, *due, experiments="[micro]").finish()
    assert code != 0
    made = [name for name in tables if (folder.path / name).is_file() and (folder.path / name).stat().st_mtime_ns > before[name]]
    assert made == ["data/micro/tables/steering.parquet"]
    assert (data / "perplexity/layers_02-06.json").is_file()
    summary = printed[printed.index("Failed jobs") :]
    assert "output_score" in summary
    assert "logs/micro/output_score/layers_02-06.log" in summary
    assert "Error" in (folder.path / "logs/micro/output_score/layers_02-06.log").read_text()


@dataclass
class Disturbed:
    sweep: Sweep
    first: tuple[int, str]
    second: tuple[int, str]
    kept: set[Path]
    """Parts that were there when the first run had ended."""


@pytest.fixture(scope="module")
def disturbed(node: Node, finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    """Killed for memory; tried again with more; cancelled half-way. Then the same command again, with enough memory at once."""
    sweep = Sweep(finished.copy(tmp_path_factory.mktemp("disturbed") / "repo"), node)
    run = sweep.start(*TOO_SMALL_AT_FIRST, "--retries", "1")
    sweep.hold_half_way()
    subprocess.run(["scancel", list(sweep.jobs)[-1]], check=True)
    first = run.finish()
    kept = sweep.new_parts
    return Disturbed(sweep, first, sweep.start(*ENOUGH, "--retries", "1").finish(), kept)


def test_a_job_killed_for_memory_is_tried_again_with_more(disturbed: Disturbed) -> None:
    jobs = list(disturbed.sweep.jobs.values())
    assert [(job["JobState"], job["MinMemoryNode"]) for job in jobs[:2]] == [("FAILED", "500M"), ("CANCELLED", "2500M")]
    assert "Trying to restart job" in disturbed.first[1]


def test_the_message_names_the_log_that_says_why(disturbed: Disturbed) -> None:
    code, printed = disturbed.first
    assert code != 0
    killed, cancelled = (Path(log) for log in re.findall(r"submitted with SLURM jobid \d+ \(log: (.*)\)", printed))
    for log in (killed, cancelled):
        assert re.search(rf"^    log: .*{re.escape(str(log))}", printed, re.MULTILINE)
    assert "memory" in killed.read_text()
    assert "CANCELLED" in cancelled.read_text()


def test_the_same_command_again_reuses_finished_parts(disturbed: Disturbed) -> None:
    assert disturbed.second[0] == 0, disturbed.second[1]
    n_kept = n_rows(disturbed.kept)
    assert 0 < n_kept < N_WANTED - N_THERE
    assert disturbed.kept <= disturbed.sweep.new_parts, "a finished part was lost"
    assert n_rows(disturbed.sweep.new_parts) == N_WANTED - N_THERE, "a row was computed twice"
    assert f"{N_WANTED} keys wanted, {N_WANTED - N_THERE - n_kept} to compute" in disturbed.sweep.log()


def test_the_table_equals_an_undisturbed_runs(disturbed: Disturbed, undisturbed: Folder) -> None:
    assert disturbed.sweep.folder.table("generations").equals(undisturbed.table("generations"))


def test_scancel_ends_a_job_in_time(disturbed: Disturbed) -> None:
    """Told to stop, it wrote out what it had: the log of the job says so, and SLURM's own killing did not have to follow."""
    (cancelled,) = [job for job in disturbed.sweep.jobs.values() if job["JobState"] == "CANCELLED"]
    assert "told to stop (SIGTERM)" in Path(cancelled["StdOut"]).read_text()
