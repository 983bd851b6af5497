"""What a run on a SLURM cluster keeps on its own host, and the jobs that a killed run left in the queue."""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from saesteer.workflow.locks import other_run

log = logging.getLogger(__name__)


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
