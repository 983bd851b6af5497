"""The chain of a real experiment on SLURM: what needs the internet runs on the submitting host; a compute node has no way to the hub."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from real_inputs import EXPERIMENT, RealFolder, World, small_world
from slurm_node import Node
from workflow_folder import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


def is_of_a_job(port: int) -> bool:
    """Whether the process that has this port of this host runs inside a SLURM job."""
    pids = {connection.pid for connection in psutil.net_connections("tcp") if connection.laddr and connection.laddr.port == port}
    return any("SLURM_JOB_ID" in psutil.Process(pid).environ() for pid in pids if pid)


def test_gpu_jobs_find_everything_fetched_and_never_ask_the_hub(node: Node, tmp_path: Path) -> None:
    with small_world(tmp_path / "served") as world:
        world.hub.turns_away = is_of_a_job
        folder = RealFolder(tmp_path / "run", World(**vars(world)), ROOT)
        folder.write()
        base = ("--default-resources", "slurm_partition=gpu", "mem_mb=2500*attempt", "runtime=60")
        tables = [f"data/{EXPERIMENT}/tables/{name}.parquet" for name in ("features", "steering")]
        run = node.run(folder, *tables, "--configfile", str(folder.path / "config/config.yaml"), "--directory", str(folder.path), *base)
        code, printed = run.finish()
        assert code == 0, printed[-4000:]
        assert world.hub.turned_away == []
        assert world.hub.requests
        assert all((folder.path / table).is_file() for table in tables)
        jobs = [job["Comment"] for job in node.jobs().values() if job["WorkDir"] == str(folder.path)]
        assert sorted({comment.split("_wildcards_")[0].removeprefix("rule_") for comment in jobs}) == [
            "generations",
            "logit_lens",
            "output_score",
            "perplexity",
        ]


def test_a_job_that_asked_the_hub_would_be_turned_away(node: Node, tmp_path: Path) -> None:
    """The test above could fail: a job's process is seen as such."""
    with small_world(tmp_path / "served") as world:
        world.hub.turns_away = is_of_a_job
        ask = f"import urllib.request; urllib.request.urlopen('{world.hub.url}/api/models/google/gemma-2-2b')"
        command = ["sbatch", "--wait", f"--output={tmp_path}/job.log", "--wrap", f'{sys.executable} -c "{ask}"']
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
        assert done.returncode != 0
        assert world.hub.turned_away == ["/api/models/google/gemma-2-2b"]
