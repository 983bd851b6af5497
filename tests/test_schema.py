"""The JSON schemas for editors: an independent validator takes every shipped file and refuses what the settings refuse."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from workflow_folder import ROOT

SCHEMAS = {name: json.loads((ROOT / "config" / name).read_text()) for name in ("workflow.schema.json", "experiment.schema.json")}
FILES = [ROOT / name for name in ("config/config.yaml", "config/paper.yaml")]
FILES += sorted((ROOT / "config/experiments").glob("*.yaml"))
MICRO = {"extends": "tiny", "description": "one", "layers": [2]}


def problems(schema: str, values: Any) -> list[str]:
    """As an editor sees the file: keys are texts."""
    return [error.message for error in Draft202012Validator(SCHEMAS[schema]).iter_errors(json.loads(json.dumps(values)))]


@pytest.mark.parametrize("name", SCHEMAS)
def test_it_is_a_schema(name: str) -> None:
    """That it is in step with the settings: test_settings.py."""
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_file_names_its_schema_and_keeps_to_it(path: Path) -> None:
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text(encoding="utf-8"))
    assert named
    schema = (path.parent / named[1]).resolve()
    kind = "experiment" if path.parent.name == "experiments" else "workflow"
    assert schema == ROOT / f"config/{kind}.schema.json"
    assert problems(schema.name, yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ("workflow", {"nonsense": 1}),
        ("workflow", {"experiments": ["micro"], "nonsense": 1}),
        ("workflow", {"experiments": []}),
        ("workflow", {"experiments": ["micro"], "part_seconds": "often"}),
        ("experiment", {"nonsense": 1}),
        ("experiment", ["micro"]),
        ("experiment", {"description": "Nothing else"}),
        ("experiment", MICRO | {"nonsense": 1}),
        ("experiment", MICRO | {"preset": "p5"}),
        ("experiment", MICRO | {"kind": "sweeps"}),
        ("experiment", MICRO | {"kind": "scores", "judge": {"kind": "none"}}),
        ("experiment", MICRO | {"sweep": {"factor": [1]}}),
        ("experiment", MICRO | {"sweep": {"factors": [[1]]}}),
        ("experiment", MICRO | {"features": {"kind": "some"}}),
        ("experiment", MICRO | {"layers": []}),
    ],
)
def test_nonsense_is_refused(schema: str, values: Any) -> None:
    assert problems(f"{schema}.schema.json", values) != []


@pytest.mark.parametrize(
    "values",
    [
        MICRO,
        MICRO | {"preset": "p1"},
        MICRO | {"kind": "comparison", "methods": {"methods": ["diffmean"]}},
        MICRO | {"sweep": {"factors": [0, 0.5, "2"]}},
        MICRO | {"features": {"n_per_layer": 3}},
    ],
)
def test_a_file_that_extends_another_states_only_what_differs(values: Any) -> None:
    assert problems("experiment.schema.json", values) == []
    assert problems("experiment.schema.json", {key: value for key, value in values.items() if key != "extends"}) != []
