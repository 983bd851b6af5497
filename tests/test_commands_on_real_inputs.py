"""`saesteer check`, `features`, `export` and `agreement` where everything is on loopback."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from hub_server import use_hub
from real_inputs import EXPERIMENT, LAYERS, N_FEATURES, RealFolder, World, small_world
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.store import MEASURED_ON, Upstream, WantedRows, complete
from saesteer.rating.agreement import pairwise_agreement
from saesteer.settings import SettingsError
from saesteer.steps.judge import JUDGEMENTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with small_world(tmp_path_factory.mktemp("served")) as world:
        yield world


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealFolder:
    """The folder that commands are given in, with the world's variables."""
    folder = RealFolder(tmp_path / "run", world)
    folder.write()
    monkeypatch.chdir(folder.path)
    use_hub(monkeypatch, world.hub.url)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    return folder


def saesteer(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_check_says_what_there_is_and_what_it_takes(folder: RealFolder) -> None:
    code, printed = saesteer("check", EXPERIMENT)
    assert code == 0, printed
    lines = dict(line.split(f" {EXPERIMENT}: ")[1].split(": ", 1) for line in printed.splitlines() if EXPERIMENT in line)
    assert lines["files"].startswith("6 features in 2 layers")
    assert lines["model"].startswith("google/gemma-2-2b can be read; 0 MiB to download")
    assert lines["SAEs"].startswith("2 of google/gemma-scope-2b-pt-res in the form gemma_2, at resid_post, of the size of 32 x 48")
    assert lines["max_activating_examples"] == "2 sources of Neuronpedia, the first gemma-2-2b/1-gemmascope-res-16k"
    assert "are free at" in lines["disk"]
    assert lines["judge"].startswith("judge: 72 requests, about 0.0000 USD")  # 6 features x 3 factors x 2 prefixes x 2 aspects
    assert not (folder.path / "data" / EXPERIMENT).exists()


def test_check_names_every_problem_at_once(folder: RealFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    folder.write(saes={"revision": None, "d_model": 64, "n_features": N_FEATURES, "id": "layer_{layer}/width_16k/canonicle"})
    code, printed = saesteer("check", EXPERIMENT)
    assert code == 1
    assert "model: experiment small-gemma: saes.d_model is 64, but google/gemma-2-2b has a residual stream of 32" in printed
    assert "SAEs: release gemma-scope-2b-pt-res-canonical has no SAE 'layer_1/width_16k/canonicle'" in printed
    assert "OPENAI_API_KEY" in printed


def test_check_names_what_is_served_otherwise_than_stated(folder: RealFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose licence is to be accepted, SAEs of another size, a published file without a digest."""
    monkeypatch.setattr(folder.world, "digests", {})
    monkeypatch.setattr(folder.world.hub.repos["google/gemma-2-2b"], "gated", True)
    folder.write(saes={"revision": None, "d_model": 32, "n_features": 64})
    code, printed = saesteer("check", EXPERIMENT)
    assert code == 1
    assert "published files: the project knows no digest of nltk/webtext: state it under published_digests" in printed
    assert "bytes of weights in google/gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_102/params.npz, but 32 x 64" in printed
    assert re.search("google/gemma-2-2b is gated.*: accept its licence at", printed)


def test_features_are_found_by_their_explanations(folder: RealFolder) -> None:
    folder.write(features={"kind": "explained", "pattern": "word north", "list": "config/features/north.json"})
    code, printed = saesteer("check", EXPERIMENT)
    assert code == 1
    assert "`saesteer features EXPERIMENT` makes it" in printed
    code, printed = saesteer("features", EXPERIMENT)
    assert code == 0, printed
    kept = json.loads((folder.path / "config/features/north.json").read_text())
    north = [feature for feature in range(N_FEATURES) if feature % 7 == 4]  # real_inputs.WORDS[4] is " north"
    assert kept["features"] == {str(layer): north for layer in LAYERS}
    assert kept["source"] == "explanations of gemma-2-2b/1-gemmascope-res-16k, gemma-2-2b/2-gemmascope-res-16k on Neuronpedia"
    assert kept["answer"]["1"] == {str(feature): "mentions of the word north" for feature in north}


def judged(
    folder: Path,
    seed: int,
    rating: int,
    measured_on: str = "concepts:a generations:a",
    model: str = "judge",
    file: str | None = None,
    layer: int = 3,
    version: int = 1,
) -> None:
    """Ratings of four texts by the judge of a seed, as a judge step leaves them. `file`: the digest of a judge's own file."""

    def rate(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
        ratings = pl.Series([rating, 0, 1, 2], dtype=pl.UInt8)
        nothing = pl.lit(None, pl.UInt8)
        yield missing.with_columns(
            concept_rating=ratings,
            concept_log_odds=pl.lit(None, pl.Float64),
            instruction_rating=nothing,
            fluency_rating=ratings,
            judge_score=ratings.cast(pl.Float64),
            reason=pl.lit(None, pl.String),
        )

    values = {"method": ["feature"], "target": ["1", "2"], "factor": ["2"], "prefix_id": ["p", "q"], "sample": [0]}
    axes = [pl.DataFrame({name: column}) for name, column in values.items()]
    inputs = {"generations": f"of layer {layer}"} | ({"judge_model": file} if file else {})
    settings, versions = {"kind": "endpoint", "model": model, "seed": seed}, {"judge.parse": version}
    fingerprint = {"settings": settings, "algorithm_versions": versions, "inputs": inputs, MEASURED_ON: "rows"}
    digests = WantedRows(layer, axes, {}).keys(JUDGEMENTS).with_columns(pl.lit(measured_on).alias(MEASURED_ON))
    wanted = WantedRows(layer, axes, fingerprint, Upstream([digests], {}))
    complete(folder, JUDGEMENTS, [wanted], rate, folder / "layers_03-03.json")


def test_judges_of_the_same_texts_are_compared(tmp_path: Path) -> None:
    judged(tmp_path, seed=0, rating=0)
    with pytest.raises(SettingsError, match="holds the ratings of 1 judge: change `judge`"):
        pairwise_agreement(tmp_path)
    judged(tmp_path, seed=1, rating=2)
    ((names, rows),) = pairwise_agreement(tmp_path).items()
    assert sorted(names) == ["kind endpoint, model judge, seed 0", "kind endpoint, model judge, seed 1"]
    concept = rows.row(by_predicate=pl.col("aspect") == "concept", named=True)
    # Ratings 0 0 1 2 and 2 0 1 2: three of four equal; 1 - 4 / (sum over pairs of (i - j)^2 n_i m_j / 4 = 26 / 4) = 5 / 13.
    assert (concept["n"], concept["equal"]) == (4, 0.75)
    assert concept["kappa"] == pytest.approx(5 / 13)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"model": "meta-llama/Llama-3.1-8B-Instruct"}, {"model": "meta-llama/Llama-3.3-70B-Instruct"}),
        ({"file": "a" * 64}, {"file": "b" * 64}),
    ],
    ids=["long names", "files"],
)
def test_judges_that_differ_late_in_a_name_or_in_a_file_are_two(tmp_path: Path, first: dict[str, str], second: dict[str, str]) -> None:
    judged(tmp_path, seed=0, rating=0, **first)
    judged(tmp_path, seed=0, rating=2, **second)
    judged(tmp_path, seed=1, rating=0, **first)
    equal = {frozenset(names): rows["equal"][0] for names, rows in pairwise_agreement(tmp_path).items()}
    assert sorted(equal.values()) == [0.75, 0.75, 1.0]
    (alike,) = (names for names, share in equal.items() if share == 1)
    (value,) = first.values()
    assert any(value in name for name in alike)
    assert len(set().union(*equal)) == 3


def test_a_judge_of_two_layers_is_one(tmp_path: Path) -> None:
    """Its texts are measured on other SAEs in each."""
    for layer in (3, 6):
        judged(tmp_path, seed=0, rating=0, layer=layer)
    with pytest.raises(SettingsError, match="holds the ratings of 1 judge"):
        pairwise_agreement(tmp_path)
    judged(tmp_path, seed=1, rating=2, layer=6)
    ((_, rows),) = pairwise_agreement(tmp_path).items()
    assert rows["n"].to_list() == [4, 0, 4]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_of_a_judges_versions_the_newest_counts(version: int, tmp_path: Path) -> None:
    judged(tmp_path, seed=0, rating=2, version=version)
    judged(tmp_path, seed=0, rating=0, version=version + 1)
    judged(tmp_path, seed=1, rating=0)
    ((_, rows),) = pairwise_agreement(tmp_path).items()
    assert rows["equal"].to_list() == [1, None, 1]


@pytest.mark.parametrize("other", ["concepts:a generations:b", "concepts:b generations:a"])
def test_ratings_of_other_texts_or_for_another_concept_are_not_compared(tmp_path: Path, other: str) -> None:
    judged(tmp_path, seed=0, rating=0)
    judged(tmp_path, seed=1, rating=2, measured_on=other)
    ((_, rows),) = pairwise_agreement(tmp_path).items()
    assert rows["n"].to_list() == [0, 0, 0]
