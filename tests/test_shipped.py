"""The shipped experiment, as `make figures` runs it: its findings, by rules fixed beforehand, and the numbers the README shows."""

import json
from pathlib import Path

import pytest
from test_workflow import Folder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = Folder(tmp_path_factory.mktemp("tiny") / "repo")
    code, output = folder.run(experiment="tiny")
    assert code == 0, output
    return json.loads((folder.path / "data/tiny/metrics.json").read_text())


@pytest.mark.slow
def test_roles_change_with_depth(numbers: dict) -> None:
    assert numbers["depth"]["rho_input_score"] < 0
    assert numbers["depth"]["rho_output_score"] > 0


@pytest.mark.slow
def test_both_scores_are_rarely_high(numbers: dict) -> None:
    assert numbers["both_above_half"]["share"] < 0.1


@pytest.mark.slow
def test_filtering_by_output_score_helps_on_held_out_prefixes(numbers: dict) -> None:
    gain = numbers["filter"]["all"]
    assert gain["ratio"] >= 1.5
    assert gain["kept"]["mean"] > gain["random"]["high"]
    assert gain["p_within_layers"] < 0.05


@pytest.mark.slow
def test_the_readme_shows_these_numbers(numbers: dict) -> None:
    """Within what another machine's rounding may move: a few sampled tokens among half a million."""
    shown = json.loads((ROOT / "docs/results/tiny.json").read_text())
    for place in ("unfiltered", "kept", "random"):
        assert numbers["filter"]["all"][place]["mean"] == pytest.approx(shown["filter"]["all"][place]["mean"], rel=0.05)
    assert numbers["depth"]["rho_input_score"] == pytest.approx(shown["depth"]["rho_input_score"], abs=0.02)
    assert numbers["features"] == shown["features"]
