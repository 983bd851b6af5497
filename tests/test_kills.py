"""kill -9 of everything at random moments, again and again: the same command goes on, and ends where an undisturbed run does."""

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from run_records import results_of
from workflow_folder import MAIN_STEPS, PER_GENERATION, Folder

from saesteer.core.files import file_digest

N_BEFORE_TABLES, N_JOBS = 16, 33
"""Jobs of the experiment: pins, SAEs and steps; all."""
TARGETS = ("data/micro/metrics.json", "figures/micro/roles.csv")
"""What follows from every step's rows."""


@dataclass(frozen=True)
class Moment:
    n_done: int
    """Jobs that have to be done before, so that kills fall into every phase on a machine of any speed."""
    seconds: float
    """And then so long."""
    rule: str | None = None
    """A rule that has to have a job running."""


def random_moments(n_kills: int, seed: int) -> list[Moment]:
    """Spread over the run; the earlier ones wait longer: their jobs run models. The first and the last are at fixed rules, whatever the
    machine's speed."""
    draw, n_between = random.Random(seed), n_kills - 2
    counts = [int((number + draw.random()) * (N_JOBS - 6) / n_between) for number in range(n_between)]
    between = [Moment(count, draw.uniform(0, 5 if count < N_BEFORE_TABLES else 1)) for count in counts]
    return [Moment(0, 0.0, "activations"), *between, Moment(0, 0.0, "figure")]


def rules_in(folder: Folder, kind: str) -> dict[Path, str]:
    """The logs (.log) or benchmark files (.tsv) of the folder's jobs, each with its rule."""
    logs = folder.path / "logs/micro"
    return {path: path.relative_to(logs).parts[0].removesuffix(kind) for path in logs.rglob(f"*{kind}")}


def written_at(path: Path) -> float:
    """When; 0 for a file that is not there, or no longer: Snakemake removes a job's log before it runs the job again."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


def killed_jobs(folder: Folder) -> dict[Path, str]:
    """Logs, each with its rule, of jobs that began and did not end: the benchmark file, written last, is older or not there."""
    return {log: rule for log, rule in rules_in(folder, ".log").items() if written_at(log.with_suffix(".tsv")) < written_at(log)}


def n_ended(folder: Folder) -> int:
    killed = killed_jobs(folder)
    return sum(path.with_suffix(".log") not in killed for path in rules_in(folder, ".tsv"))


def wait_for(folder: Folder, moment: Moment, process: subprocess.Popen[str], since: float) -> None:
    """Until so many jobs are done, and a job has begun; if a rule is named, one of its jobs that has not ended."""
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        begun = {rule for log, rule in rules_in(folder, ".log").items() if written_at(log) > since}
        running = {rule for log, rule in killed_jobs(folder).items() if written_at(log) > since}
        if (moment.rule in running if moment.rule else begun) and n_ended(folder) >= moment.n_done:
            return
        time.sleep(0.05)


def kill_at(folder: Folder, moment: Moment, *targets: str, cold: bool) -> set[str]:
    """Go on with the workflow, `cold` as `make grammar` does, kill it and all its children; the rules of the jobs that were killed."""
    folder.call("saesteer", "unlock").check_returncode()
    since = time.time()
    process = folder.start(*targets, cold=cold, part_seconds=0)
    wait_for(folder, moment, process, since)
    time.sleep(moment.seconds)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert not ended, f"ended before {moment}:\n{output}"
    return {of for log, of in killed_jobs(folder).items() if written_at(log) > since}


def parts_of(folder: Folder) -> set[Path]:
    return {part for parts in folder.parts().values() for part in parts}


def sweep_to_do(finished: Folder, path: Path) -> Folder:
    """The finished experiment without its texts and all that follows from them."""
    folder = finished.copy(path)
    for name in ("logs", *(f"data/micro/{name}" for name in (*PER_GENERATION, "tables")), "figures/micro"):
        shutil.rmtree(folder.path / name)
    (folder.path / "data/micro/metrics.json").unlink()
    return folder


@pytest.mark.slow
def test_kill_9_loses_at_most_the_parts_in_flight(finished: Folder, tmp_path: Path) -> None:
    """In the sweep, and once more when the texts are rated."""
    folder = sweep_to_do(finished, tmp_path / "repo")
    assert any(killed_at(folder, [Moment(0, 0.8, "generations"), Moment(2, 0.2)], *TARGETS))
    run_to_the_end(folder, finished, *TARGETS)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_kill_9_at_12_random_moments(finished: Folder, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "repo")
    killed = killed_at(folder, random_moments(12, 0), cold=True)
    assert sum(map(bool, killed)) >= 6, "a kill has to fall into a job, more often than between two"
    assert "activations" in killed[0]
    assert "figure" in killed[-1], "the kills have to fall into every phase"
    run_to_the_end(folder, finished)


def killed_at(folder: Folder, moments: list[Moment], *targets: str, cold: bool = False) -> list[set[str]]:
    """Kill the run at each moment, and see that no part was lost or written half; each time the rules of the jobs that were killed."""
    before = parts_of(folder)
    killed = []
    for moment in moments:
        killed.append(kill_at(folder, moment, *targets, cold=cold))
        parts = parts_of(folder)
        assert before <= parts, "a finished part was lost"
        assert all(file_digest(part) == part.stem for part in parts - before), "a part was written half"
        before = parts
    return killed


def run_to_the_end(folder: Folder, finished: Folder, *targets: str) -> None:
    """The same command goes on to what an undisturbed run makes."""
    before = parts_of(folder)
    folder.call("saesteer", "unlock").check_returncode()
    code, output = folder.run(*targets, part_seconds=0)
    assert code == 0, output
    assert before <= parts_of(folder)
    for step, table in MAIN_STEPS.items():
        keys = pl.concat([pl.read_parquet(part, columns=list(table.keys)) for part in folder.parts()[step]])
        assert keys.height == keys.n_unique() == finished.table(step).height, f"{step}: finished rows were computed again"
        assert folder.table(step).equals(finished.table(step)), step
    results, expected = results_of(folder), results_of(finished)
    assert results == {path: content for path, content in expected.items() if not targets or path in results}
    assert set(targets) <= set(results)
    assert not [path for kind in ("corrupt", "partial") for path in folder.path.rglob(f"*.{kind}")], "litter"
