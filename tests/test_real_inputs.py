"""The chain of a real experiment: hub, Neuronpedia, GitHub and judge on loopback, through the same code, to all figures."""

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from real_inputs import EXPERIMENT, FEATURES, KEY, RealFolder, World, small_world
from sharing_folders import clone_of, first_clone
from workflow_folder import BIN, ROOT, WITHOUT_SHIPPED, new_rows

from saesteer.settings import load_experiment
from saesteer.workflow import outputs

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


@dataclass
class Finished:
    folder: RealFolder
    world: World
    printed: str


@pytest.fixture(scope="module")
def finished_real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    with small_world(tmp_path_factory.mktemp("served")) as world:
        folder = RealFolder(tmp_path_factory.mktemp("real") / "run", world)
        folder.write()
        code, printed = folder.run(experiment=EXPERIMENT)
        assert code == 0, printed[-4000:]
        yield Finished(folder, world, printed)


def copied(finished: Finished, path: Path) -> RealFolder:
    twin = RealFolder(path, finished.world)
    for name in ("data", "figures", "logs", ".snakemake", "config", "home"):
        shutil.copytree(finished.folder.path / name, path / name, dirs_exist_ok=True, symlinks=True, ignore=WITHOUT_SHIPPED)
    return twin


def test_every_figure_is_made(finished_real: Finished) -> None:
    experiment = load_experiment(EXPERIMENT, finished_real.folder.path / "config/experiments")
    made = {path.stem for path in (finished_real.folder.path / "figures" / EXPERIMENT).glob("*.pdf")}
    assert made == set(outputs.figures(experiment))
    assert {"roles", "judge_kept_removed", "pmi_by_threshold"} <= made


def test_features_have_their_pages(finished_real: Finished) -> None:
    """Of Neuronpedia at the configured address."""
    for name in ("features", "examples"):
        rows = pl.read_parquet(finished_real.folder.path / "data" / EXPERIMENT / f"tables/{name}.parquet")
        expected = [
            f"{finished_real.world.neuronpedia.address}/gemma-2-2b/{layer}-gemmascope-res-16k/{feature}"
            for layer, feature in rows.select("layer", "feature").iter_rows()
        ]
        assert rows["page"].to_list() == expected


def test_every_step_has_its_rows(finished_real: Finished) -> None:
    n_features = sum(map(len, FEATURES.values()))
    heights = {
        step: finished_real.folder.table(step, EXPERIMENT).height
        for step in ("max_activating_examples", "concepts", "output_score", "generations", "judge")
    }
    assert heights == {
        "max_activating_examples": n_features,
        "concepts": n_features,
        "output_score": n_features,
        "generations": n_features * 3 * 4,
        "judge": n_features * 3 * 2,
    }
    assert finished_real.folder.table("max_activating_examples", EXPERIMENT)["n_examples"].to_list() == [12] * n_features
    judged = finished_real.folder.table("judge", EXPERIMENT)
    assert judged["judge_score"].null_count() < judged.height
    assert judged.filter(pl.col("judge_score").is_null())["reason"].null_count() == 0


def test_each_thing_was_fetched_once_and_nothing_pickled(finished_real: Finished) -> None:
    large = Counter(path for method, path, _ in finished_real.world.hub.requests if method == "GET" and "/cdn/" in path)
    assert large
    assert set(large.values()) == {1}
    assert not any(path.endswith((".bin", ".pt", ".pth")) for _, path, _ in finished_real.world.hub.requests)


def test_one_command_checks_runs_and_sets_ours_beside_the_papers(finished_real: Finished, tmp_path: Path) -> None:
    """`make gemma-2-2b` of the small experiment, where all but the page is finished."""
    folder = copied(finished_real, tmp_path / "made")
    for name in ("Snakefile", "rules", "scripts", "src", "envs", "requirements.lock", "pyproject.toml", "Makefile"):
        (folder.path / name).symlink_to(ROOT / name)
    old = [argument for name in ("requirements.lock", "pyproject.toml") for argument in ("-o", name)]  # nothing is to be installed
    variables = (f"BIN={BIN}", f"INSTALLED={BIN / 'python'}", f"PAPER={EXPERIMENT}", "CORES=2")
    done = subprocess.run(
        ["make", "gemma-2-2b", *old, *variables], cwd=folder.path, env=folder.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"ok        {EXPERIMENT}: model:" in done.stdout
    page = (folder.path / f"figures/{EXPERIMENT}/paper.md").read_text(encoding="utf-8")
    assert re.search(r"^\| GenSuccess@20, unfiltered \| 0.5 to 0.6 \| text, figures 4, 5, 10 \| \d", page, re.MULTILINE)
    assert re.search(r"^\| output score of feature 19/10015 \| 0.734 \| tables of example features \| – \| – \|$", page, re.MULTILINE)
    steps = folder.snakemakes_log().partition("Job stats")[2]
    assert re.findall(r"^(\w+) +1$", steps, re.MULTILINE).count("paper") == 1
    assert "generations" not in steps.split("\n\n")[0]


def test_no_question_was_paid_for_twice(finished_real: Finished) -> None:
    answered = finished_real.world.judge.answered
    assert answered
    assert len(answered) == len(set(answered))


def test_the_key_is_nowhere(finished_real: Finished) -> None:
    assert KEY not in finished_real.printed
    files = [
        path for path in finished_real.folder.path.rglob("*") if path.is_file() and not any(part.startswith("world") for part in path.parts)
    ]
    assert len(files) > 100
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_nothing_is_left_to_do(finished_real: Finished) -> None:
    code, printed = finished_real.folder.run("-n", experiment=EXPERIMENT)
    assert code == 0
    assert "Nothing to be done" in printed


def test_a_folder_without_the_downloads_has_nothing_to_do_and_fetches_when_it_has(finished_real: Finished, tmp_path: Path) -> None:
    """A colleague who pulled the results has no model; one more feature, and what it needs is fetched, nothing else computed."""
    folder = copied(finished_real, tmp_path / "colleague")
    shutil.rmtree(folder.path / "data/downloads")
    shutil.rmtree(folder.path / "home")
    code, printed = folder.run("-n", experiment=EXPERIMENT)
    assert code == 0
    assert "Nothing to be done" in printed
    before, n_answered = folder.parts(EXPERIMENT), len(finished_real.world.judge.answered)
    folder.write(features={"kind": "explicit", "features": FEATURES | {2: [*FEATURES[2], 9]}})
    code, printed = folder.run(*(f"data/{EXPERIMENT}/tables/{name}.parquet" for name in ("features", "steering")), experiment=EXPERIMENT)
    assert code == 0, printed[-4000:]
    rows = new_rows(before, folder.parts(EXPERIMENT))
    assert {step: set(frame.select("layer", "feature").iter_rows()) for step, frame in rows.items()} == {step: {(2, 9)} for step in rows}
    assert {"max_activating_examples", "output_score", "generations", "judge"} <= set(rows)
    assert (folder.path / f"data/downloads/{EXPERIMENT}/model.json").is_file()
    assert len(finished_real.world.judge.answered) > n_answered


def test_results_are_shared_and_downloads_are_not(finished_real: Finished, tmp_path: Path) -> None:
    copied = (f"data/{EXPERIMENT}", "data/downloads", "config")
    ours = first_clone(tmp_path / "a", finished_real.folder, str(tmp_path / "store"), copied)
    assert "published" in ours.tool("saesteer", "push", EXPERIMENT)
    theirs = clone_of(ours, tmp_path / "b")
    assert "0 to be made again" in theirs.tool("saesteer", "pull")
    assert not (theirs.path / "data/downloads").exists()
    assert "downloads" not in "".join(path.read_text() for path in (theirs.path / "data").rglob("*.dvc"))
    code, printed = theirs.run("-n", experiment=EXPERIMENT)
    assert code == 0
    assert "Nothing to be done" in printed


def test_a_missing_key_is_refused_before_any_text_is_generated(finished_real: Finished, tmp_path: Path) -> None:
    folder = RealFolder(tmp_path / "keyless", World(**{**vars(finished_real.world), "extra": {"OPENAI_API_KEY": ""}}))
    folder.write()
    code, printed = folder.run(experiment=EXPERIMENT)
    assert code != 0
    assert "OPENAI_API_KEY" in printed
    assert not (folder.path / "data" / EXPERIMENT).exists()


def test_a_model_of_another_width_is_refused_before_its_weights_are_fetched(finished_real: Finished, tmp_path: Path) -> None:
    folder = RealFolder(tmp_path / "narrow", finished_real.world)
    folder.write(saes={"revision": None, "d_model": 64, "n_features": 48})
    finished_real.world.hub.requests.clear()
    code, printed = folder.run(f"data/downloads/{EXPERIMENT}/model.json", experiment=EXPERIMENT)
    assert code != 0
    assert "saes.d_model is 64, but google/gemma-2-2b has a residual stream of 32" in printed
    assert not any(path.endswith(".safetensors") for _, path, _ in finished_real.world.hub.requests)


def test_pins_name_commits_and_no_place(finished_real: Finished) -> None:
    pin = json.loads((finished_real.folder.path / f"data/{EXPERIMENT}/pins/model.json").read_text())
    assert pin["revision"] == finished_real.world.hub.repos["google/gemma-2-2b"].branches["main"]
    assert str(finished_real.folder.path) not in json.dumps(pin)
