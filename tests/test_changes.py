"""Only what changed is computed again: each row of the README's table, on the micro experiment."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from run_records import LAST_STEPS, Done, due, results_of, run_measured
from safetensors.numpy import load_file, save_file
from workflow_folder import GPU_STEPS, MAIN_STEPS, PER_FEATURE, PER_GENERATION, ROOT, Folder

from saesteer.core.files import text_id
from saesteer.core.store import write_part
from saesteer.sources.prefixes import read_prefixes

pytestmark = pytest.mark.slow

FEATURES = {2: [3, 141, 592, 653], 6: [27, 182, 818, 284]}
FACTORS, N_PREFIXES = [0, 2, 4], 4
N_TEXTS = 2000
STEERING = {"generations", "perplexity"}
"""The steps of a generation that run a model."""
ROWS = {"activations": 2 * N_TEXTS} | dict.fromkeys(PER_FEATURE, 8) | dict.fromkeys(PER_GENERATION, 8 * 3 * 4)
"""Of the whole experiment."""
TABLES_OF_OUTCOMES = {"outcomes", "selection", "filter_variants", "factor_bins", "pmi", "examples"}
TABLES_AND_FIGURES = TABLES_OF_OUTCOMES | {"features_table", "steering_table", "metrics", "figure"}


def only(steps: set[str] | tuple[str, ...], n: int) -> dict[str, int]:
    return dict.fromkeys(steps, n)


def features(layer_2: list[int], layer_6: list[int]) -> dict[str, Any]:
    return {"features": {"kind": "explicit", "features": {2: layer_2, 6: layer_6}}}


def sweep(factors: list[int], n_prefixes: int) -> dict[str, Any]:
    return {"sweep": {"factors": factors, "n_prefixes": n_prefixes}}


def column(done: Done, steps: set[str], name: str) -> set[Any]:
    """The values of a key among the new rows of some steps."""
    return set(pl.concat([done.rows[step].select(name) for step in steps])[name])


def drop_rows(folder: Folder, steps: set[str], kept: pl.Expr) -> None:
    """Leave some rows of some steps only, in parts as a run that computed no others would have left."""
    for step in steps:
        for manifest in (folder.path / "data/micro" / step).glob("layers_*.json"):
            manifest.unlink()
        for part in folder.parts()[step]:
            rows = pl.read_parquet(part).filter(kept)
            part.unlink()
            if not rows.is_empty():
                write_part(part.parent, rows)


@pytest.fixture(scope="module")
def smaller(finished: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """An experiment with one feature, factor and prefix fewer than micro has."""
    folder = finished.copy(tmp_path_factory.mktemp("smaller") / "repo")
    shutil.rmtree(folder.path / "data/micro/tables")
    shutil.rmtree(folder.path / "figures/micro")
    features_kept = pl.col("feature") != 653
    prefixes_kept = pl.col("prefix_id").is_in(list(read_prefixes(folder.path / "config/prefixes.txt", N_PREFIXES - 1)))
    drop_rows(folder, PER_FEATURE, features_kept)
    drop_rows(folder, PER_GENERATION, (pl.col("target") != "653") & prefixes_kept & (pl.col("factor") != "2"))
    folder.edit("micro", **features([3, 141, 592], FEATURES[6]), **sweep([0, 4], N_PREFIXES - 1))
    assert run_measured(folder, *LAST_STEPS).n_rows == {}
    assert folder.table("generations").height == 7 * 2 * 3
    return folder


def test_additions_compute_their_own_rows_and_end_where_a_run_from_nothing_does(smaller: Folder, finished: Folder, tmp_path: Path) -> None:
    folder = smaller.copy(tmp_path / "repo")

    folder.edit("micro", **sweep(FACTORS, N_PREFIXES))
    assert set(due(folder)) == PER_GENERATION | TABLES_AND_FIGURES - {"features_table"}, "a factor and a prefix added"

    folder.edit("micro", **features(FEATURES[2], FEATURES[6]))
    expected = {path: content for path, content in results_of(finished).items() if path.startswith(("data/", "figures/micro/roles."))}
    done = run_measured(folder, *expected)
    assert done.n_rows == only(PER_FEATURE, 1) | only(PER_GENERATION, 8 * 3 * 4 - 7 * 2 * 3), "a feature, a factor and a prefix added"
    assert column(done, PER_FEATURE, "feature") == {653}
    generations = pl.concat([done.rows[step].select("feature", "factor", "prefix_id") for step in sorted(PER_GENERATION)])
    of_old_features_and_factors = generations.filter((pl.col("feature") != 653) & (pl.col("factor") != "2"))
    assert of_old_features_and_factors["prefix_id"].n_unique() == 1
    assert of_old_features_and_factors.height == len(PER_GENERATION) * 7 * 2
    assert done.gpu_jobs == done.model_jobs == set(GPU_STEPS) - {"activations"}

    assert {path: content for path, content in results_of(folder).items() if path in expected} == expected


@pytest.mark.exhaustive
def test_one_prefixs_text_edited_computes_its_rows(smaller: Folder, tmp_path: Path) -> None:
    folder = smaller.copy(tmp_path / "repo")
    path = folder.path / "config/prefixes.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "Long before that", *lines[2:]]) + "\n")
    done = run_measured(folder, *LAST_STEPS)
    assert done.n_rows == only(PER_GENERATION, 7 * 2)
    assert column(done, PER_GENERATION, "prefix_id") == {text_id("Long before that")}
    assert done.gpu_jobs == done.model_jobs == STEERING


def test_nothing_changed_nothing_is_due(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    code, output = folder.run("--dry-run")
    assert code == 0
    assert "Nothing to be done" in output


@pytest.mark.exhaustive
def test_one_feature_removed_computes_no_row_and_asks_for_no_gpu(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    folder.edit("micro", **features([3, 141, 592], FEATURES[6]))
    done = run_measured(folder, *LAST_STEPS, "data/micro/metrics.json", "figures/micro/roles.pdf")
    assert done.n_rows == {}
    assert done.gpu_jobs == done.model_jobs == set()
    assert {*PER_FEATURE, *PER_GENERATION, "features_table", "outcomes", "figure"} <= set(done.jobs)
    assert 653 not in set(folder.table("generations")["feature"])
    rows = pl.read_parquet(finished.path / LAST_STEPS[0])
    assert pl.read_parquet(folder.path / LAST_STEPS[0]).equals(rows.filter(pl.col("feature") != 653))


@pytest.mark.exhaustive
def test_a_layer_a_job_one_feature_added_is_for_its_layers_jobs(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    folder.edit("micro", layers_per_job=1)
    done = run_measured(folder, *LAST_STEPS)
    assert done.n_rows == {}, "grouping layers in another way computes nothing"
    assert done.gpu_jobs == set()
    folder.edit("micro", **features(FEATURES[2], [*FEATURES[6], 700]))
    files = due(folder)
    assert set(files) == PER_FEATURE | PER_GENERATION | TABLES_AND_FIGURES
    of_layers = {path for step in PER_FEATURE | PER_GENERATION for path in files[step]}
    assert of_layers == {f"data/micro/{step}/layers_06-06.json" for step in PER_FEATURE | PER_GENERATION}


def test_the_draws_of_a_control_are_for_selection_tables_and_figures_only(finished: Folder, tmp_path: Path) -> None:
    """As is every setting of its section, which rules take as a whole."""
    folder = finished.copy(tmp_path / "repo")
    folder.edit("micro", selection={"late_layers_from": 6, "random_draws": 300, "permutations": 200})
    assert set(due(folder)) == TABLES_OF_OUTCOMES - {"outcomes"} | {"metrics", "figure"}


def edited_oracle(folder: Folder) -> dict[str, Any]:
    """The judge's rubric: how many nats a token make a text fluent."""
    shutil.copytree(ROOT / "data/world/oracle", folder.path / "oracle")
    path = folder.path / "oracle/oracle.json"
    settings = json.loads(path.read_text())
    settings["thresholds"]["nats"] = [value / 2 for value in settings["thresholds"]["nats"]]
    path.write_text(json.dumps(settings))
    return {"judge": {"oracle": "oracle"}}


def edited_sae(folder: Folder) -> dict[str, Any]:
    """Layer 6's SAE with one number of a feature that nobody wants changed; layer 2's the same bytes at another path."""
    for layer in ("layer_02", "layer_06"):
        shutil.copytree(ROOT / "data/world/saes" / layer, folder.path / "saes" / layer)
    path = folder.path / "saes/layer_06/sae_weights.safetensors"
    tensors = load_file(path)
    tensors["b_enc"][1000] += 0.5
    save_file(tensors, path)
    return {"saes": {"path": "saes/layer_{layer:02d}"}}


def test_the_judges_rubric_changed_judges_again_and_nothing_else(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    folder.edit("micro", **edited_oracle(folder))
    done = run_measured(folder, "data/micro/tables/steering.parquet")
    assert done.n_rows == only({"judge"}, 96)
    assert done.jobs == {"pin": 1, "judge": 1, "steering_table": 1}
    assert set(due(folder)) == TABLES_AND_FIGURES - {"features_table", "steering_table"}
    assert not folder.table("judge").equals(finished.table("judge"))


@pytest.mark.exhaustive
def test_another_dtype_computes_everything_that_used_it_and_gc_removes_the_old_parts(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    old = {step: set(parts) for step, parts in folder.parts().items()}
    folder.edit("micro", model={"dtype": "tf32"})
    done = run_measured(folder, *LAST_STEPS)
    assert done.n_rows == ROWS
    assert done.gpu_jobs == done.model_jobs == set(GPU_STEPS)
    assert all(old[step] < parts for step, parts in folder.parts().items()), "old parts stay"
    assert due(folder).keys() <= TABLES_AND_FIGURES - {"features_table", "steering_table"}
    now = {step: folder.table(step) for step in MAIN_STEPS}

    listed = run_gc(folder)
    assert {path for path in listed if path.endswith(".parquet")} == {
        str(path.relative_to(folder.path)) for parts in old.values() for path in parts
    }
    assert all((folder.path / path).is_file() for path in listed), "listed, not removed"
    run_gc(folder, "--remove")
    assert not any((folder.path / path).exists() for path in listed)
    assert all(now[step].equals(folder.table(step)) for step in MAIN_STEPS)
    assert run_gc(folder) == set()


def run_gc(folder: Folder, *arguments: str) -> set[str]:
    done = folder.call("saesteer", "gc", *arguments)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"data/\S+", done.stdout))


def revision(folder: Folder) -> dict[str, Any]:
    return {"model": {"revision": "0123abc"}}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("edit", "layers"), [(revision, {2, 6}), (edited_sae, {6})], ids=["model revision", "one layer's SAE"])
def test_another_model_or_sae_computes_again_what_used_it(
    finished: Folder, tmp_path: Path, edit: Callable[[Folder], dict[str, Any]], layers: set[int]
) -> None:
    folder = finished.copy(tmp_path / "repo")
    folder.edit("micro", **edit(folder))
    assert set(MAIN_STEPS) <= set(due(folder))
    done = run_measured(folder, "data/micro/logit_lens/layers_02-06.json")
    assert set(done.rows["logit_lens"]["layer"]) == layers
    assert done.n_rows["logit_lens"] == 4 * len(layers)
