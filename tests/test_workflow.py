"""The workflow itself, on the micro experiment: end to end, forced again, misused."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest
import yaml
from workflow_folder import MAIN_STEPS, PER_FEATURE, PER_GENERATION, ROOT, Folder

from saesteer.core.store import read_manifest
from saesteer.core.tables import read_summary
from saesteer.run import Run
from saesteer.settings import load_experiment, load_workflow
from saesteer.steps.features import FEATURES
from saesteer.workflow.outputs import planned_outputs


@pytest.mark.slow
def test_every_step_has_its_rows(finished: Folder) -> None:
    n_texts = pl.read_parquet(ROOT / "data/world/texts.parquet").height
    expected = {"activations": 2 * n_texts} | dict.fromkeys(PER_FEATURE, 8) | dict.fromkeys(PER_GENERATION, 8 * 3 * 4)
    assert {step: finished.table(step).height for step in MAIN_STEPS} == expected


@pytest.mark.slow
def test_every_figure_is_there_with_its_data(finished: Folder) -> None:
    folder = finished.path / "figures/micro"
    for kind, start in (("pdf", b"%PDF"), ("png", b"\x89PNG"), ("csv", b"")):
        files = sorted(folder.glob(f"*.{kind}"))
        assert len(files) == 10
        assert all(file.read_bytes().startswith(start) and file.stat().st_size > 100 for file in files)
    assert json.loads((finished.path / "data/micro/metrics.json").read_text())
    assert (folder / "headline.md").read_text().startswith("|")


@pytest.mark.slow
def test_every_file_that_a_rule_makes_is_asked_for(finished: Folder) -> None:
    """Else a job that fails could be taken for done (outputs.planned_outputs)."""
    run = Run(load_workflow({"experiments": ["micro"]}), "micro", load_experiment("micro", finished.path / "config/experiments"))
    kinds = ("pins/*.json", "*/layers_??-??.json", "tables/*", "*.json")
    made = {path.relative_to(finished.path) for kind in kinds for path in (finished.path / run.data).glob(kind)}
    assert made == {path for file in planned_outputs(run) if (path := Path(file)).is_relative_to(run.data)}


@pytest.mark.slow
def test_parts_record_the_code_and_the_libraries_that_made_them(finished: Folder) -> None:
    for step in MAIN_STEPS:
        layers = read_manifest(finished.path / f"data/micro/{step}/layers_02-06.json")["layers"].values()
        ((versions,), (same,)) = (entry["made_with"] for entry in layers)
        assert versions == same
        assert {name: versions[name] for name in ("torch", "transformers")} == {name: version(name) for name in ("torch", "transformers")}
        assert re.fullmatch("[0-9a-f]{16}", versions["code"])


@pytest.mark.slow
def test_each_job_leaves_a_log_and_a_benchmark(finished: Folder) -> None:
    log = next((finished.path / "logs/micro/generations").glob("*.log")).read_text()
    assert "96 keys wanted, 96 to compute" in log
    assert "float32 on cpu" in log
    assert "tokens/s" in log
    assert len(list((finished.path / "logs/micro").rglob("*.tsv"))) == len(list((finished.path / "logs/micro").rglob("*.log")))


@pytest.mark.slow
def test_a_dry_run_says_in_words_why_a_job_is_due(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    folder.edit("micro", sweep={"factors": [0, 2, 4], "n_prefixes": 4, "temperature": 0.9})
    code, output = folder.run("-n", "data/micro/generations/layers_02-06.json")
    assert code == 0, output
    (reason,) = (line for line in output.splitlines() if "Params have changed" in line)
    before, _, now = reason.partition(" now: ")
    assert '"temperature": 0.7' in before
    assert '"temperature": 0.9' in now
    assert "feature" not in now  # the keys are the same


@pytest.mark.slow
def test_jobs_with_nothing_missing_load_no_model_and_ask_for_no_gpu(finished: Folder, tmp_path: Path) -> None:
    gpu_rules = ["activations", "logit_lens", "output_score", "generations", "perplexity"]
    folder = finished.copy(tmp_path / "repo")
    before = folder.parts()
    manifests = [f"data/micro/{rule}/layers_02-06.json" for rule in gpu_rules]
    code, output = folder.run(*manifests, "--forcerun", *gpu_rules)
    assert code == 0, output
    assert folder.parts() == before
    assert "gpu=0" in folder.snakemakes_log()
    assert "gpu=1" not in folder.snakemakes_log()
    for rule in gpu_rules:
        (log,) = (folder.path / f"logs/micro/{rule}").glob("*.log")
        assert "0 to compute" in log.read_text()
        assert "INFO model" not in log.read_text()


@pytest.mark.slow
def test_an_experiment_that_stops_at_the_scores(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    before = folder.parts()
    file = folder.path / "config/experiments/micro.yaml"
    shared = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key not in ("sweep", "selection")}
    file.write_text(yaml.safe_dump(shared | {"kind": "scores"}))
    code, printed = folder.run()
    assert code == 0, printed
    assert folder.parts() == before
    made = {layer: read_summary(FEATURES, folder.path / f"data/micro/features/layer_{layer:02d}.parquet") for layer in (2, 6)}
    assert {layer: table.height for layer, table in made.items()} == {2: 4, 6: 4}
    assert "generations" not in folder.snakemakes_log().split("Job stats:")[1].split("\n\n")[0]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_figures_made_again_are_the_same_bytes(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    files = [file for file in sorted((folder.path / "figures").rglob("*")) if file.is_file()]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    code, output = folder.run("--forcerun", "figure", "metrics")
    assert code == 0, output
    for file, (content, written) in before.items():
        assert file.read_bytes() == content
        assert file.stat().st_mtime_ns > written


@pytest.mark.slow
def test_bad_input_is_refused_before_any_job(tmp_path: Path) -> None:
    """What else is refused: test_settings.py, test_plan.py."""
    folder = Folder(tmp_path / "repo")
    folder.edit("micro", layers=[2, 6, 8], layers_per_job=1)
    code, output = folder.run()
    assert code != 0
    assert "layers: [8] do not exist" in output
    assert not (folder.path / "data/micro").exists()
    assert not (folder.path / "logs").exists()
