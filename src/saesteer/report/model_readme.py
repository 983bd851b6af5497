"""The documentation's tables of P1's findings on several models and SAEs, and of how their residuals grow. Nobody types a number."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saesteer.core.files import write_json
from saesteer.core.markdown import number, table
from saesteer.report.headline import findings_markdown

BOOKS = {"books": "as shipped", "books-saes-1": "1", "books-saes-2": "2"}
"""Experiment on the books' model -> the SAEs' training seed."""
MODELS = {
    "tiny": "as shipped: Gemma-2, writes growing with depth",
    "tiny-plain": "Gemma-2, ordinary initialisation",
    "tiny-llama": "Llama",
    "tiny-neox": "NeoX",
    "books": "the books': Gemma-2, ordinary initialisation",
}
"""Experiment -> model."""
BUILT = {"tiny-plain": "gemma_plain", "tiny-llama": "llama", "tiny-neox": "neox"}
"""Experiment on a model that is not shipped -> its folder in build/world/."""
RESULTS = tuple(dict.fromkeys((*BOOKS, *MODELS)))
"""Experiments whose metrics are kept in docs/results/."""


def keep_results(root: Path) -> None:
    """Keep in git what was measured of the models that are not shipped."""
    for folder in BUILT.values():
        made = root / f"build/world/{folder}/metrics.json"
        if made.is_file():
            write_json(root / f"docs/models/{folder}.json", json.loads(made.read_text(encoding="utf-8")))


def blocks(root: Path, results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Name -> generated text of each block, from docs/results/ and the models' metrics."""
    return {
        "books-seeds": findings_markdown("SAEs' seed", {label: results[name] for name, label in BOOKS.items() if name in results}),
        "models": findings_markdown("model", {label: results[name] for name, label in MODELS.items() if name in results}),
        "growth": _growth_markdown({label: (norms_of(root, name), results[name]) for name, label in MODELS.items() if name in results}),
    }


def norms_of(root: Path, experiment: str) -> list[float]:
    """Mean norm of the residual behind each layer."""
    files = {"tiny": "data/world/metrics.json", "books": "data/world-books/metrics.json"}
    file = root / (files[experiment] if experiment in files else f"docs/models/{BUILT[experiment]}.json")
    metrics = json.loads(file.read_text(encoding="utf-8"))
    layers = (metrics["seeds"][0] if "seeds" in metrics else metrics)["layers"]
    return [layer["residual_norm"] for layer in layers]


def _growth_markdown(measured: Mapping[str, tuple[Sequence[float], Mapping[str, Any]]]) -> str:
    lines = []
    for label, (norms, numbers) in measured.items():
        medians = " ".join(number(layer["median_output_score"], 3) for layer in numbers["layers"])
        growth = (norms[-1] / norms[0]) ** (1 / (len(norms) - 1))
        ends = f"{number(norms[0], 1)} → {number(norms[-1], 1)}"
        inputs = " ".join(number(layer["median_input_score"]) for layer in numbers["layers"])
        lines.append([label, ends, number(growth), inputs, medians, number(numbers["depth"]["rho_output_score"])])
    header = ["model", "residual norm, first and last layer", "times a layer", "median input score by layer"]
    header += ["median output score by layer", "ρ of the latter with depth"]
    return table(header, lines) + "\n"
