"""The profile for other schedulers that docs/cluster.md gives, on a SLURM that Snakemake knows by three commands only."""

import re
import time
from pathlib import Path

import pytest
from slurm_node import TOKENS, Node, environment_of
from workflow_folder import ROOT, Folder

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]
TARGET = "data/micro/generations/layers_02-06.json"


def test_a_job_killed_for_memory_is_submitted_again(node: Node, finished: Folder, tmp_path: Path) -> None:
    """And writes what an ordinary run writes; no secret of this host is in it."""
    ordinary, folder = (finished.copy(tmp_path / name) for name in ("ordinary", "repo"))
    for one in (ordinary, folder):
        one.edit("micro", sweep={"factors": [0, 2, 3, 4], "n_prefixes": 4})
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    (profile,) = re.findall(r"^```yaml\n(executor: cluster-generic\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    (folder.path / "generic").mkdir()
    (folder.path / "generic/config.yaml").write_text(profile)
    memory = ("--default-resources", "mem_mb=500 if attempt == 1 else 2500", "runtime=60")
    run = node.run(folder, TARGET, *memory, "--latency-wait", "5", profile=folder.path / "generic", experiments="[micro]")
    of_jobs: dict[str, str] = {}
    while run.is_alive:
        environments = (environment_of(path) for path in Path("/proc").glob("[0-9]*"))
        of_jobs |= {name: value for values in environments if "SLURM_JOB_ID" in values for name, value in values.items()}
        time.sleep(1)
    code, printed = run.finish(seconds=1)
    assert code == 0, printed
    jobs = [job for job in node.jobs().values() if job["WorkDir"] == str(folder.path)]
    assert [(job["JobState"], job["Comment"]) for job in jobs] == [("FAILED", "rule_generations"), ("COMPLETED", "rule_generations")]
    assert "gres/gpu=1" in jobs[-1]["TRES"] or jobs[-1]["JOB_GRES"] == "gpu:1"
    assert {"PATH", "SLURM_JOB_ID"} <= set(of_jobs)
    assert not set(of_jobs) & set(TOKENS)
    code, output = ordinary.run(TARGET)
    assert code == 0, output
    assert folder.table("generations").equals(ordinary.table("generations"))
