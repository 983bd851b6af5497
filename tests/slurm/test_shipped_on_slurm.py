"""The shipped experiment, end to end, with `snakemake --profile slurm` on a real SLURM with two pretend GPUs."""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from slurm_node import TOKENS, ClusterRun, Node, environment_of, wait_for
from workflow_folder import GPU_STEPS, PER_FEATURE, PER_GENERATION, ROOT, Checkout

from saesteer.core.store import read_rows
from saesteer.steps.step import step_tables

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@dataclass
class Seen:
    """What was to be seen while the run went on."""

    folder: Checkout
    scratch: Path
    code: int = -1
    printed: str = ""
    gpus_at_once: list[set[str]] = field(default_factory=list)
    variables: dict[str, set[str]] = field(default_factory=dict)
    """Process of a job -> the names in its environment."""
    outages: list[str] = field(default_factory=list)
    """What Snakemake printed while the controller was down."""
    tokens_in_the_run: dict[str, str] = field(default_factory=dict)

    def at_work(self, steps: Iterable[str]) -> list[Path]:
        """Logs of the jobs whose script has started."""
        return [log for step in steps for log in (self.folder.path / "logs/tiny" / step).glob("layers_*.log")]


def outage(node: Node, run: ClusterRun) -> str:
    """Stop the controller until Snakemake has looked for its jobs in vain; give what was printed meanwhile."""
    with node.controller_down():
        before = len(run.printed.read_text())  # what was submitted until now was before it
        stopped, begun = time.time(), set[int]()

        def has_failed() -> bool:
            """A query began a second after the stop, as processes' times are exact to a second, and has ended."""
            unanswered = run.queries(stopped + 1)
            begun.update(unanswered)
            return bool(begun - unanswered)

        wait_for("Snakemake to miss the controller", has_failed, 120)
        meanwhile = run.printed.read_text()[before:]
    wait_for("the controller", node.jobs)  # running or not: all of them may have ended while it was down
    return meanwhile


@pytest.fixture(scope="module")
def seen(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = Checkout(tmp_path_factory.mktemp("shipped") / "repo")
    seen = Seen(folder, tmp_path_factory.mktemp("scratch"))
    with (folder.path / "config/config.yaml").open("a") as configuration:
        configuration.write(f"data_dir: {seen.scratch}\n")  # the one line for shared scratch
    base = ("--default-resources", "slurm_partition=gpu", "mem_mb=2500*attempt", "runtime=60")  # as a reader edits the block
    run = node.run(folder, "--configfile", "config/config.yaml", *base)
    deadline = time.monotonic() + 2400
    while run.is_alive and time.monotonic() < deadline:
        running = node.jobs("RUNNING")
        seen.gpus_at_once.append({index for job in running.values() for index in re.findall(r"IDX:(\d)", job.get("GRES", ""))})
        environments = {path.name: environment_of(path) for path in Path("/proc").glob("[0-9]*")}
        seen.variables |= {process: set(values) for process, values in environments.items() if "SLURM_JOB_ID" in values}
        own = environments.get(str(run.process.pid), {})
        seen.tokens_in_the_run |= {name: own[name] for name in TOKENS if name in own}
        if not seen.outages and len(seen.at_work(("activations", "logit_lens", "generations"))) >= 2:
            seen.outages.append(outage(node, run))
        time.sleep(2)  # reading every process costs time that the jobs need
    seen.code, seen.printed = run.finish(seconds=1)
    return seen


def test_it_finishes(seen: Seen) -> None:
    assert seen.code == 0, seen.printed[-4000:]
    assert (seen.folder.path / "figures/tiny/headline.md").is_file()
    assert len(list((seen.folder.path / "figures/tiny").glob("*.pdf"))) == 10
    assert not (seen.folder.path / "data/tiny").exists(), "all data belongs on scratch"


def test_every_step_has_its_rows(seen: Seen) -> None:
    n_features, n_generations = 8 * 30, 8 * 30 * 15 * 20
    expected = dict.fromkeys(PER_FEATURE, n_features) | dict.fromkeys(PER_GENERATION, n_generations)
    manifests = {step: sorted((seen.scratch / "tiny" / step).glob("layers_*.json")) for step in expected}
    assert {step: read_rows(step_tables()[step], paths).height for step, paths in manifests.items()} == expected


def test_findings_and_the_numbers_that_the_readme_shows(seen: Seen) -> None:
    """Within what another machine's rounding may move: a few sampled tokens among half a million."""
    numbers = json.loads((seen.scratch / "tiny/metrics.json").read_text())
    shown = json.loads((ROOT / "docs/results/tiny.json").read_text())
    assert numbers["features"] == shown["features"]
    assert numbers["depth"]["rho_input_score"] == pytest.approx(shown["depth"]["rho_input_score"], abs=0.02)
    gain = numbers["filter"]["capped"]["all"]
    for features in ("unfiltered", "kept", "random"):
        assert gain[features]["mean"] == pytest.approx(shown["filter"]["capped"]["all"][features]["mean"], rel=0.05)
    assert gain["net"]["ratio"]["value"] == pytest.approx(shown["filter"]["capped"]["all"]["net"]["ratio"]["value"], rel=0.1)
    assert numbers["findings"] == shown["findings"]


def test_only_jobs_that_run_a_model_went_to_slurm(seen: Seen, node: Node) -> None:
    jobs = [job for job in node.jobs().values() if job["WorkDir"] == str(seen.folder.path)]
    steps = sorted(job["Comment"].split("_wildcards_")[0].removeprefix("rule_") for job in jobs)
    assert steps == sorted([*GPU_STEPS] * 2)  # two groups of four layers
    assert all("gres/gpu=1" in job["TRES"] or job["JOB_GRES"] == "gpu:1" for job in jobs)


def test_two_jobs_ran_at_once_on_different_gpus(seen: Seen) -> None:
    assert {"0", "1"} in seen.gpus_at_once


def test_the_controller_restarted_in_mid_run_disturbs_nothing(seen: Seen) -> None:
    """Snakemake asked for its jobs in vain while it was down; no job was lost, and none was submitted twice (above)."""
    assert len(seen.outages) == 1
    assert "has been submitted" not in seen.outages[0]
    assert "Trying to restart job" not in seen.printed


def test_tokens_stayed_on_this_host(seen: Seen) -> None:
    """In no process of any job; yet the run itself had them."""
    assert len(seen.variables) > 10
    assert [names for names in seen.variables.values() if names & set(TOKENS)] == []
    assert seen.tokens_in_the_run == TOKENS
