"""The shipped experiment's findings, by rules fixed beforehand: on fewer prefixes here, as `make figures` runs it in
slurm/test_shipped_on_slurm.py."""

import json
from typing import Any

import pytest
import yaml
from workflow_folder import Folder

N_PREFIXES = 6
"""Of the experiment's 20."""


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = Folder(tmp_path_factory.mktemp("tiny") / "repo")
    settings = yaml.safe_load((folder.path / "config/experiments/tiny.yaml").read_text())
    folder.edit("tiny", sweep=settings["sweep"] | {"n_prefixes": N_PREFIXES})
    code, output = folder.run("data/tiny/metrics.json", experiment="tiny")
    assert code == 0, output
    metrics: dict[str, Any] = json.loads((folder.path / "data/tiny/metrics.json").read_text())
    return metrics


def check_findings(numbers: dict[str, Any]) -> None:
    """Roles change with depth, both scores are rarely high, filtering by output score helps on held-out prefixes."""
    assert numbers["depth"]["rho_input_score"] < 0
    assert numbers["depth"]["rho_output_score"] > 0
    assert numbers["both_above_half"]["share"] < 0.1
    gain = numbers["filter"]["all"]
    assert gain["ratio"] >= 1.5
    assert gain["kept"]["mean"] > gain["random"]["high"]


@pytest.mark.slow
def test_findings(numbers: dict[str, Any]) -> None:
    check_findings(numbers)
