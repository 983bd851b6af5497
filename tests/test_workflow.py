"""The workflow itself, on the micro experiment: end to end, again, changed, killed, misused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from workflow_folder import PER_FEATURE, PER_GENERATION, ROOT, Folder

from saesteer.tables import STEPS


@pytest.mark.slow
def test_every_step_has_its_rows(finished: Folder) -> None:
    n_texts = pl.read_parquet(ROOT / "data/world/texts.parquet").height
    expected = {"activations": 2 * n_texts} | dict.fromkeys(PER_FEATURE, 8) | dict.fromkeys(PER_GENERATION, 8 * 3 * 4)
    assert {step: finished.table(step).height for step in STEPS} == expected


@pytest.mark.slow
def test_every_figure_is_there_with_its_data(finished: Folder) -> None:
    folder = finished.path / "figures/micro"
    for kind, start in (("pdf", b"%PDF"), ("png", b"\x89PNG"), ("csv", b"")):
        files = sorted(folder.glob(f"*.{kind}"))
        assert len(files) == 9
        assert all(file.read_bytes().startswith(start) and file.stat().st_size > 100 for file in files)
    assert json.loads((finished.path / "data/micro/metrics.json").read_text())
    assert (folder / "headline.md").read_text().startswith("|")


@pytest.mark.slow
def test_each_job_leaves_a_log_and_a_benchmark(finished: Folder) -> None:
    log = next((finished.path / "logs/micro/sweep").glob("*.log")).read_text()
    assert "96 keys wanted, 96 to compute" in log
    assert "float32 on cpu" in log
    assert "tokens/s" in log
    assert len(list((finished.path / "logs/micro").rglob("*.tsv"))) == len(list((finished.path / "logs/micro").rglob("*.log")))


@pytest.mark.slow
def test_a_second_run_has_nothing_to_do(finished: Folder) -> None:
    code, output = finished.run()
    assert code == 0
    assert "Nothing to be done" in output


@pytest.mark.slow
def test_jobs_with_nothing_missing_load_no_model_and_ask_for_no_gpu(finished: Folder) -> None:
    gpu_rules = ["activations", "logit_lens", "output_score", "sweep", "perplexity"]
    before = finished.parts()
    code, output = finished.run("--forcerun", *gpu_rules)
    assert code == 0, output
    assert finished.parts() == before
    assert "gpu=0" in output
    assert "gpu=1" not in output
    for rule in gpu_rules:
        (log,) = (finished.path / f"logs/micro/{rule}").glob("*.log")
        assert "0 to compute" in log.read_text()
        assert "INFO model" not in log.read_text()


@pytest.mark.slow
def test_figures_made_again_are_the_same_bytes(finished: Folder) -> None:
    files = [file for file in sorted((finished.path / "figures").rglob("*")) if file.is_file()]
    before = {file: file.read_bytes() for file in files}
    code, output = finished.run("--forcerun", "figure", "metrics")
    assert code == 0, output
    assert {file: file.read_bytes() for file in files} == before


@pytest.mark.slow
def test_one_feature_added_computes_its_own_rows_only(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    before, rows_before = folder.parts(), {step: folder.table(step) for step in STEPS}
    folder.edit("micro", features={"kind": "explicit", "features": {2: [3, 141, 592, 653, 700], 6: [27, 182, 818, 284]}})
    code, output = folder.run()
    assert code == 0, output
    for step, parts in folder.parts().items():
        new = [pl.read_parquet(part) for part in parts - before[step]]
        expected = 0 if step == "activations" else 1 if step in PER_FEATURE else 3 * 4
        assert sum(frame.height for frame in new) == expected, step
        assert all(frame["feature"].unique().to_list() == [700] for frame in new)
        now = folder.table(step)
        assert now.join(rows_before[step], on=STEPS[step].keys, how="semi").equals(rows_before[step])
        assert now.height == rows_before[step].height + expected
    assert "Nothing to be done" in folder.run()[1]


@pytest.mark.slow
def test_kill_9_in_the_sweep_loses_the_part_in_flight_only(tmp_path: Path, finished: Folder) -> None:
    """A larger sweep, killed when its first parts are there, then the same command again; compared with an undisturbed run."""
    sweep = {"factors": [0, 0.4, 1, 2, 3, 4, 8], "n_prefixes": 20}
    folders = [finished.copy(tmp_path / name) for name in ("killed", "undisturbed")]
    target = "data/micro/perplexity/layers_02-06.json"
    for folder in folders:
        folder.edit("micro", sweep=sweep)
    killed, undisturbed = folders
    before = killed.parts()["sweep"]
    process = killed.start(target, part_seconds=0)
    deadline = time.monotonic() + 300
    while len(killed.parts()["sweep"] - before) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = killed.parts()["sweep"] - before
    n_kept = sum(pl.read_parquet(part).height for part in kept)
    subprocess.run([Path(sys.executable).with_name("saesteer"), "unlock", "--folder", killed.path], check=True)
    code, output = killed.run(target, part_seconds=0)
    assert code == 0, output
    log = next((killed.path / "logs/micro/sweep").glob("*.log")).read_text()
    n_wanted = 8 * 7 * 20
    n_there = 8 * 3 * 4  # factors 0, 2 and 4 on the first four prefixes
    assert f"{n_wanted} keys wanted, {n_wanted - n_there - n_kept} to compute" in log
    assert n_kept > 0
    assert kept <= killed.parts()["sweep"], "a finished part was lost"
    assert undisturbed.run(target)[0] == 0
    for step in ("sweep", "perplexity"):
        assert killed.table(step).equals(undisturbed.table(step)), step


@pytest.mark.slow
def test_two_runs_in_one_folder_are_refused(finished: Folder, tmp_path: Path) -> None:
    folder = finished.copy(tmp_path / "repo")
    first = folder.start("--forcerun", "figure")
    lock = folder.path / ".snakemake/locks"
    deadline = time.monotonic() + 120
    while not list(lock.glob("*.lock")) and time.monotonic() < deadline:
        time.sleep(0.1)
    code, output = folder.run("--forcerun", "figure")
    unlock = subprocess.run(
        [Path(sys.executable).with_name("saesteer"), "unlock"], cwd=folder.path, capture_output=True, text=True, check=False
    )
    assert first.wait(timeout=300) == 0
    assert code != 0
    assert "cannot be locked" in output
    assert unlock.returncode == 1
    assert "a workflow is running here" in unlock.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"sweeep": {}}, "micro.yaml cannot be used:\n  sweeep: unknown key 'sweeep'. Did you mean 'sweep'?"),
        ({"features": {"kind": "explicit", "features": {2: [5000]}}}, "layer 2: 5000 is out of range, its SAE has features 0 to 1023"),
        ({"layers": [2, 6, 8], "layers_per_job": 1}, "layers: [8] do not exist"),
    ],
)
def test_bad_input_is_refused_before_any_job(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    folder = Folder(tmp_path / "repo")
    folder.edit("micro", **sections)
    code, output = folder.run()
    assert code != 0
    assert message in output
    assert not (folder.path / "data/micro").exists()
    assert not (folder.path / "logs").exists()
