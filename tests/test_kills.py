"""kill -9 of everything at random moments, again and again: the same command goes on, and ends where an undisturbed run does."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest
from run_records import results_of
from workflow_folder import BIN, Folder

from saesteer.files import file_digest
from saesteer.tables import STEPS

N_KILLS = 20
SECONDS = {
    "pin": 2,
    "convert_saes": 6,
    "activations": 12,
    "records": 1,
    "concepts": 1,
    "logit_lens": 5,
    "output_score": 5,
    "sweep": 6,
    "gen_success": 1,
    "perplexity": 6,
    "judge": 1,
    "features_table": 1,
    "steering_table": 1,
    "selection": 2,
    "pmi": 2,
    "figure": 10,
}
"""Rule -> about how long its jobs take: moments are spread over the rules in these proportions, on a machine of any speed."""


def random_moments(seed: int) -> list[tuple[str, float]]:
    """In the order of the rules: (rule, seconds into it), as if drawn from the time of a run."""
    draw = random.Random(seed)
    times = sorted(draw.uniform(0, sum(SECONDS.values())) for _ in range(N_KILLS))
    moments, start = [], 0.0
    for rule, length in SECONDS.items():
        moments += [(rule, time - start) for time in times if start <= time < start + length]
        start += length
    return moments


def rules_in(folder: Folder, kind: str) -> dict[Path, str]:
    """The logs (.log) or benchmark files (.tsv) of the folder's jobs, each with its rule."""
    logs = folder.path / "logs/micro"
    return {path: path.relative_to(logs).parts[0].removesuffix(kind) for path in logs.rglob(f"*{kind}")}


def killed_jobs(folder: Folder) -> dict[Path, str]:
    """Logs, each with its rule, of jobs that began and did not end: the benchmark file, written last, is older or not there."""
    ended = {path: path.stat().st_mtime for path in rules_in(folder, ".tsv")}
    return {log: rule for log, rule in rules_in(folder, ".log").items() if ended.get(log.with_suffix(".tsv"), 0) < log.stat().st_mtime}


def wait_for(folder: Folder, rule: str, process: subprocess.Popen[str], since: float) -> None:
    """Until a job of the rule has begun; any job will do when the rule's own are done."""
    deadline = time.monotonic() + 300
    done = rule in rules_in(folder, ".tsv").values() and rule not in killed_jobs(folder).values()
    while process.poll() is None and time.monotonic() < deadline:
        begun = {of for log, of in rules_in(folder, ".log").items() if log.stat().st_mtime > since}
        if rule in begun or (done and begun):
            return
        time.sleep(0.05)


def kill_at(folder: Folder, rule: str, seconds: float) -> set[str]:
    """Go on with the workflow as `make figures` does, kill it and all its children; the rules of the jobs that were killed."""
    subprocess.run([BIN / "saesteer", "unlock"], cwd=folder.path, env=folder.environment, check=True, capture_output=True)
    since = time.time()
    process = folder.start(part_seconds=0)
    wait_for(folder, rule, process, since)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, f"ended before it was killed in {rule}:\n{output}"
    return {of for log, of in killed_jobs(folder).items() if log.stat().st_mtime > since}


def parts_of(folder: Folder) -> set[Path]:
    return {part for parts in folder.parts().values() for part in parts}


@pytest.mark.slow
def test_kill_9_at_random_moments_loses_at_most_the_parts_in_flight(finished: Folder, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "repo")
    kept: set[Path] = set()
    struck: set[str] = set()
    for rule, seconds in random_moments(seed=0):
        struck |= kill_at(folder, rule, seconds)
        parts = parts_of(folder)
        assert kept <= parts, "a finished part was lost"
        assert all(file_digest(part) == part.stem for part in parts - kept), "a part was written half"
        kept = parts
    subprocess.run([BIN / "saesteer", "unlock"], cwd=folder.path, env=folder.environment, check=True, capture_output=True)
    code, output = folder.run(part_seconds=0)
    assert code == 0, output
    assert kept <= parts_of(folder)
    for step, table in STEPS.items():
        keys = pl.concat([pl.read_parquet(part, columns=list(table.keys)) for part in folder.parts()[step]])
        assert keys.height == keys.n_unique() == finished.table(step).height, f"{step}: finished rows were computed again"
        assert folder.table(step).equals(finished.table(step)), step
    assert results_of(folder) == results_of(finished)
    assert {"activations", "figure"} <= struck, "the moments have to fall into every phase"
    assert len(struck) >= 6
    assert not [path for kind in ("corrupt", "partial") for path in folder.path.rglob(f"*.{kind}")], "litter"
