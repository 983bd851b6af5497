"""What the cluster profile asks for, seen in dry runs: no SLURM is needed."""

import re
from pathlib import Path

import pytest
import yaml
from workflow_folder import GPU_STEPS, ROOT, Folder

from saesteer.sources.model_size import bytes_of_weights

pytestmark = pytest.mark.slow

STEPS = tuple(step for step in GPU_STEPS if step != "activations")  # of experiments with max-activating examples from Neuronpedia
OF_ANOTHER_SEED = """\
extends: tiny
description: The shipped experiment on another training seed
model: {path: build/world/seed_1/model}
saes: {path: "build/world/seed_1/saes/layer_{layer:02d}"}
max_activating_examples: {kind: local, texts: build/world/seed_1/texts.parquet}
concepts: {kind: topics, topics: build/world/seed_1/topics.json}
perplexity: {model: {path: build/world/seed_1/reference_model}}
judge: {kind: oracle, oracle: build/world/seed_1/oracle}
seed_of_world: 1
"""
PROFILE = ("--profile", str(ROOT / "slurm"))


def dry_run(folder: Folder, *arguments: str) -> str:
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run", *PROFILE, *arguments]
    done = folder.call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def counts(printed: str) -> dict[str, int]:
    """Rule -> number of jobs, from the table that a dry run prints first."""
    table = printed.split("Job stats:")[1].split("\n\n")[0]
    return {name: int(number) for name, number in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def resources(printed: str, rule: str) -> dict[str, str]:
    """Resources of the first job of a rule."""
    (line,) = re.findall(rf"^(?:local)?rule {rule}:.*?^    resources: ([^\n]*)", printed, re.MULTILINE | re.DOTALL)[:1]
    return dict(item.split("=", 1) for item in line.split(", ") if "=" in item)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bare command, with none of the paper's models there."""
    return dry_run(Folder(tmp_path_factory.mktemp("paper") / "repo"))


def test_the_bare_command_resolves_the_papers_experiments(paper: str) -> None:
    jobs = counts(paper)
    assert {jobs[step] for step in STEPS} == {26 + 42 + 2 + 32 + 6 + 12}  # layers
    assert jobs["fetch_model"] == 2 * 6
    assert jobs["total"] == 1334


def test_only_rules_that_run_a_model_are_submitted(paper: str) -> None:
    """Those that ask for a GPU; the Snakefile makes the others local rules (test_shipped_on_slurm.py sees which are submitted)."""
    assert {rule for rule in set(counts(paper)) - {"total"} if "gpu" in resources(paper, rule)} == set(STEPS)


def test_a_job_with_rows_to_compute_asks_for_what_the_block_says(paper: str) -> None:
    block = yaml.safe_load((ROOT / "slurm/config.yaml").read_text())["default-resources"]
    for step in STEPS:
        requested = resources(paper, step)
        assert requested["gpu"] == "1"
        assert requested["slurm_partition"] == block["slurm_partition"]
        assert requested["mem_mb"] == block["mem_mb"].split(" *")[0]
        assert requested["runtime"] == block["runtime"].split(" *")[0]


def test_a_job_without_asks_for_little_and_goes_elsewhere(finished: Folder) -> None:
    block = ("--default-resources", "slurm_partition=gpu", "cpu_partition=cpu", "gpu_model=a100", "mem_mb=32000*attempt", "runtime=240")
    printed = dry_run(finished, *block, "--forcerun", *GPU_STEPS, "--config", "experiments=[micro]")
    for step in GPU_STEPS:
        requested = resources(printed, step)
        assert (requested["gpu"], requested["slurm_partition"], requested["runtime"]) == ("0", "cpu", "10"), step
        assert int(requested["mem_mb"]) < 2000
        assert "gpu_model" not in requested


def test_a_model_larger_than_a_gpu_gets_several(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "repo")
    needed = bytes_of_weights(ROOT / "data/world/model", "float32")
    printed = dry_run(folder, "--default-resources", f"gpu_mb={needed // 10**6 // 2}", "--config", "experiments=[micro]")
    assert resources(printed, "output_score")["gpu"] == "3"


def test_a_real_run_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    """Another seed's world is made by `make world SEED=1`, and is not there."""
    folder = Folder(tmp_path / "repo")
    (folder.path / "config/experiments/seed-1.yaml").write_text(OF_ANOTHER_SEED)
    code, printed = folder.run(experiment="seed-1")
    assert code != 0
    assert "experiment seed-1 cannot run yet, files are missing (a dry run, -n, does without them):" in printed
    for key in ("model.path", "saes.path", "perplexity.model.path", "max_activating_examples.texts", "concepts.topics", "judge.oracle"):
        assert re.search(rf"^  {re.escape(key)}: .*build/world/seed_1", printed, re.MULTILINE), key
    assert not (folder.path / "logs").exists()
