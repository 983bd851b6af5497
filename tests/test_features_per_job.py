"""A layer's features spread over jobs: the same rows to the bit, none of them twice, none again when the share of a job changes."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_machines import Machine, experiment
from workflow_folder import ALL_STEPS, Folder, new_rows

from saesteer.core.store import StoreError, read_manifest, read_rows
from saesteer.run import SHARED_STEPS, Run
from saesteer.settings import Experiment, load_experiment
from saesteer.settings.load import load_workflow, read_yaml
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.step import step_tables
from saesteer.workflow import plan

UNEQUAL = {2: (3, 141, 592, 653), 6: (27,)}
"""Layer 6 has no feature in the second job of three features."""
MORE = {2: (3, 100, 141, 592, 653), 6: (27,)}
JOBS = [f"layers_02-06_features_{first:05d}" for first in (0, 3)]


def of_features(features: dict[int, tuple[int, ...]], **changes: Any) -> Experiment:
    micro = experiment("micro")
    return micro.model_copy(update={"features": micro.features.model_copy(update={"features": features}), **changes})


def machine(folder: Path, features: dict[int, tuple[int, ...]] = UNEQUAL, size: int | None = 3) -> Machine:
    return Machine(folder / "micro", of_features(features, features_per_job=size), "ours")


def test_jobs_are_of_so_many_features_and_name_where_they_begin(tmp_path: Path) -> None:
    run = machine(tmp_path).opened
    assert [*run.groups("generations")] == JOBS
    assert [*run.groups("activations")] == [*run.groups("saes")] == ["layers_02-06"]
    share, layers = run.of_job(JOBS[1])
    assert layers == (2, 6)
    assert [path.name for path in share.manifests("judge")] == [f"{JOBS[1]}.json"]
    assert [path.name for path in share.manifests("concepts")] == ["layers_02-06.json"]
    comparison = experiment("micro-methods", features_per_job=1)
    assert {*Run(run.workflow, "any", comparison).groups("generations")} == {*comparison.layer_groups}


def test_every_key_is_wanted_by_one_job_and_rows_are_those_of_whole_layers(tmp_path: Path) -> None:
    whole, spread = machine(tmp_path / "whole", size=None), machine(tmp_path / "spread")
    assert spread.run() == whole.run()  # as many rows of each step
    for step in whole.steps:
        table = ALL_STEPS[step]
        assert spread.opened.rows(table).equals(whole.opened.rows(table))
        assert {path.parent for path in spread.folder.glob(f"{step}/*/layer_*/*")} == {
            spread.folder / path.parent.relative_to(whole.folder) for path in whole.folder.glob(f"{step}/*/layer_*/*")
        }, "another fingerprint"


def test_another_share_of_a_job_computes_no_row(tmp_path: Path) -> None:
    here = machine(tmp_path, size=None)
    assert here.run()
    for size in (3, 1, 2, None):
        assert machine(tmp_path, size=size).run() == {}


def test_a_feature_more_computes_its_rows_though_it_moves_others_into_the_next_job(tmp_path: Path) -> None:
    machine(tmp_path).run()
    more = machine(tmp_path, MORE)
    assert more.run() == {step: 12 if "prefix_id" in ALL_STEPS[step].keys else 1 for step in more.steps if step != "activations"}
    less = machine(tmp_path)
    assert less.run() == {}
    assert less.opened.rows(GENERATIONS)["target"].unique().sort().to_list() == ["141", "27", "3", "592", "653"]


def test_a_job_reads_no_other_jobs_rows(tmp_path: Path) -> None:
    """The second job's manifest of an earlier list of features is still there, and names a feature that the first job has now."""
    machine(tmp_path, MORE).run()
    here = machine(tmp_path)
    here.run(("max_activating_examples", "concepts", "logit_lens"))
    for step in ("generations", "gen_success"):
        assert here.run_job(step, JOBS[0]) == 0
    with pytest.raises(StoreError, match="of other shares of the features lie side by side: run the workflow again"):
        here.opened.rows(GENERATIONS)
    share, _ = here.opened.of_job(JOBS[0])
    assert share.rows(GENERATIONS)["target"].unique().sort().to_list() == ["141", "27", "3", "592"]


def test_ratings_of_a_share_are_refused_beside_other_concepts(tmp_path: Path) -> None:
    """The concepts' manifest is of whole layers."""
    here = machine(tmp_path)
    here.run()
    manifest = here.folder / "concepts/layers_02-06.json"
    values = read_manifest(manifest)
    values["layers"]["2"]["parts"] = []
    manifest.write_text(json.dumps(values))
    with pytest.raises(StoreError, match="was measured on other rows"):
        read_rows(step_tables()["judge"], [here.folder / f"judge/{JOBS[0]}.json"])


def test_a_share_of_the_features_is_all_that_a_jobs_parameters_name(tmp_path: Path) -> None:
    """So one more feature makes no earlier job due."""
    before, after = (machine(tmp_path, {2: features, 6: (27,)}).opened for features in ((3, 141, 592, 653), (3, 141, 592, 600, 653)))
    for step in SHARED_STEPS:
        same = [plan.params_of_rows(*(run.of_job(group)[0], step), (2, 6)) for group in JOBS for run in (before, after)]
        assert same[0] == same[1]
        assert same[2] != same[3]


@pytest.fixture
def spread(finished: Folder, tmp_path: Path) -> Folder:
    folder = finished.copy(tmp_path / "copy")
    folder.edit("micro", features_per_job=3)
    return folder


def judged(folder: Folder) -> list[str]:
    return [f"data/micro/{step}/{job}.json" for step in ("judge", "gen_success") for job in JOBS]


def opened(folder: Folder) -> Run:
    workflow = load_workflow(read_yaml(Path("config/config.yaml"))).model_copy(update={"data_dir": folder.path / "data"})
    return Run(workflow, "micro", load_experiment("micro", folder.path / "config/experiments"))


@pytest.mark.slow
def test_the_workflow_plans_a_job_for_each_share(spread: Folder) -> None:
    """Of each step of shares, two."""
    code, planned = spread.run("-n", *judged(spread))
    assert code == 0, planned
    for step in SHARED_STEPS:
        assert f"\n{step} " in planned
    counts = {line.split()[0]: line.split()[1:] for line in planned.splitlines() if line.split()[:1] in [[step] for step in SHARED_STEPS]}
    assert counts == {step: ["2"] for step in SHARED_STEPS}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_workflow_takes_over_rows_of_whole_layers(finished: Folder, spread: Folder) -> None:
    """None of the jobs has a row to compute, or asks for a GPU, and the table is the same. Then one more feature. (That rows which shares
    compute are those of whole layers to the bit: test_invariance.py.)"""
    before, table = spread.parts(), "data/micro/tables/steering.parquet"
    code, printed = spread.run(*judged(spread), table, "--forcerun", "steering_table")
    assert code == 0, printed
    assert spread.parts() == before
    assert (spread.path / table).read_bytes() == (finished.path / table).read_bytes()
    assert all(opened(spread).rows(step_tables()[step]).equals(opened(finished).rows(step_tables()[step])) for step in SHARED_STEPS)
    features = {2: [3, 100, 141, 592, 653], 6: [27, 182, 818, 284]}
    spread.edit("micro", features={"kind": "explicit", "features": features})
    code, printed = spread.run(*judged(spread))
    assert code == 0, printed
    added = new_rows(before, spread.parts())
    assert {step: {*rows.select("layer", "feature").rows()} for step, rows in added.items()} == {
        step: {(2, 100)} for step in (*SHARED_STEPS, "max_activating_examples", "concepts", "logit_lens")
    }


@pytest.mark.parametrize(("cores", "size", "limit", "threads"), [(7, None, None, 4), (7, 3, None, 2), (2, 3, None, 1), (7, None, "1", 1)])
def test_jobs_share_the_cores_by_a_power_of_two(cores: int, size: int | None, limit: str | None, threads: int, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    chosen = folder.values("micro")["features"] | {"features": {layer: [*features] for layer, features in UNEQUAL.items()}}
    folder.edit("micro", features=chosen, features_per_job=size)
    code, planned = folder.run("-n", "--cores", str(cores), variables={"OMP_NUM_THREADS": limit}, methods="[]")
    assert code == 0
    of_rule = planned.partition("rule generations:")[2].partition("\n\n")[0]
    assert (f"threads: {threads}\n" in of_rule) == (threads > 1)
    assert ("threads:" in of_rule) == (threads > 1)
