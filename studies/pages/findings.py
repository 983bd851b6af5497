"""How the residuals of several models grow, beside their scores by layer."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saesteer.core.markdown import number
from studies.pages.tables import Row, Shown

MODELS = {
    "tiny": "as shipped: Gemma-2, writes growing with depth",
    "tiny-plain": "Gemma-2, ordinary initialisation",
    "tiny-llama": "Llama",
    "tiny-neox": "NeoX",
}
"""Experiment -> model."""
BUILT = {"tiny-plain": "gemma_plain", "tiny-llama": "llama", "tiny-neox": "neox"}
"""Experiment on a model that is not shipped -> its folder in build/world/."""
_MEASURED = {
    "tiny": "data/world/metrics.json",
    **{experiment: f"docs/models/{folder}.json" for experiment, folder in BUILT.items()},
}
"""Experiment -> what was measured of its model."""


def results_file(root: Path, experiment: str) -> Path:
    """Where git has an experiment's metrics."""
    return root / f"docs/results/{experiment}.json"


def metrics(root: Path, experiment: str) -> dict[str, Any]:
    """An experiment's metrics, as they lie in git."""
    numbers: dict[str, Any] = json.loads(results_file(root, experiment).read_text(encoding="utf-8"))
    return numbers


def growth_rows(root: Path) -> Iterator[Row]:
    """Each model's metrics with the mean norms of its residual behind each layer."""
    for experiment, label in MODELS.items():
        measured = json.loads((root / _MEASURED[experiment]).read_text(encoding="utf-8"))
        layers = (measured["seeds"][0] if "seeds" in measured else measured)["layers"]
        yield {"label": label, "norms": [layer["residual_norm"] for layer in layers], **metrics(root, experiment)}


GROWTH = Shown(growth_rows, "label", {
    "model": "label",
    "residual norm, first and last layer": lambda rows: " → ".join(number(rows[0]["norms"][end], 1) for end in (0, -1)),
    "times a layer": lambda rows: number((rows[0]["norms"][-1] / rows[0]["norms"][0]) ** (1 / (len(rows[0]["norms"]) - 1))),
    "median input score by layer": lambda rows: " ".join(number(layer["median_input_score"]) for layer in rows[0]["layers"]),
    "median output score by layer": lambda rows: " ".join(number(layer["median_output_score"], 3) for layer in rows[0]["layers"]),
    "ρ of the latter with depth": lambda rows: number(rows[0]["depth"]["rho_output_score"]),
})  # fmt: skip
