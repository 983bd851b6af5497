"""Metrics of experiments, as git has them."""

import json
from pathlib import Path
from typing import Any


def results_file(root: Path, experiment: str) -> Path:
    """Where git has an experiment's metrics."""
    return root / f"docs/results/{experiment}.json"


def metrics(root: Path, experiment: str) -> dict[str, Any]:
    """An experiment's metrics, as they lie in git."""
    numbers: dict[str, Any] = json.loads(results_file(root, experiment).read_text(encoding="utf-8"))
    return numbers
