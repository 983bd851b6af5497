"""P1's findings in every run that is kept, on several models, seeds and SAEs, and how these models' residuals grow."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from saesteer.analysis.best_factor import RULES
from saesteer.core.markdown import number
from saesteer.report.headline import depth_rho, p_value, share, times
from studies.pages.tables import Row, Rows, Shown

RUN_LABELS = {
    "tiny": "grammar, as shipped",
    "tiny-seed-1": "grammar, training seed 1",
    "tiny-seed-2": "grammar, training seed 2",
    "tiny-plain": "grammar, ordinary initialisation",
    "tiny-llama": "grammar, Llama",
    "tiny-neox": "grammar, NeoX",
    "books": "books, as shipped",
    "books-saes-1": "books, SAEs' seed 1",
    "books-saes-2": "books, SAEs' seed 2",
}
"""Experiment -> what the runs of P1's experiment are called."""
MODELS = {
    "tiny": "as shipped: Gemma-2, writes growing with depth",
    "tiny-plain": "Gemma-2, ordinary initialisation",
    "tiny-llama": "Llama",
    "tiny-neox": "NeoX",
    "books": "the books': Gemma-2, ordinary initialisation",
}
"""Experiment -> model."""
_ENDS = {"": "value", "_low": "low", "_high": "high"}
BUILT = {"tiny-plain": "gemma_plain", "tiny-llama": "llama", "tiny-neox": "neox"}
"""Experiment on a model that is not shipped -> its folder in build/world/."""
_MEASURED = {
    "tiny": "data/world/metrics.json",
    "books": "data/world-books/metrics.json",
    **{experiment: f"docs/models/{folder}.json" for experiment, folder in BUILT.items()},
}
"""Experiment -> what was measured of its model."""


def metrics(root: Path, experiment: str) -> dict[str, Any]:
    """An experiment's metrics, as they lie in git."""
    numbers: dict[str, Any] = json.loads((root / f"docs/results/{experiment}.json").read_text(encoding="utf-8"))
    return numbers


def run_rows(root: Path) -> Iterator[Row]:
    """Every kept run of P1's experiment, labelled by what tells it apart: its metrics."""
    for experiment, label in RUN_LABELS.items():
        yield {"label": label, **metrics(root, experiment)}


def gains(root: Path) -> Iterator[Row]:
    """Of every kept run and rule: how many times the filter raises GenSuccess@20, in all and within layers, with intervals."""
    for run in run_rows(root):
        for rule in RULES:
            of_rule = run["filter"][rule]["all"]
            ends = {f"{name}{end}": of_rule[name][of] for name in ("ratio", "within") for end, of in _ENDS.items()}
            kept = {"n": of_rule["unfiltered"]["n"], "n_kept": of_rule["kept"]["n"]}
            yield {"label": run["label"], "rule": rule, "p_within_layers": of_rule["p_within_layers"], **kept, **ends}


def _gain(rule: str) -> Callable[[Rows], str]:
    def cell(rows: Rows) -> str:
        gain = rows[0]["filter"][rule]["all"]
        return f"{times(gain['ratio'])}; {times(gain['within'])}; p {p_value(gain['p_within_layers'])}"

    return cell


def _depth(rows: Rows) -> str:
    return ", ".join(depth_rho(rows[0]["depth"], score) for score in ("input_score", "output_score"))


def _verdict(rows: Rows) -> str:
    holds = rows[0]["findings"]
    failed = [name.replace("_", " ") for name, held in holds.items() if not held]
    return f"{len(holds) - len(failed)} of {len(holds)}" + (f" (not: {', '.join(failed)})" if failed else "")


RUNS = Shown(run_rows, "label", {
    "run": "label", "ρ of scores with depth (input, output)": _depth,
    "both above .5": lambda rows: share(rows[0]["both_above_half"]["n"], rows[0]["both_above_half"]["n_scored"]),
    "kept": lambda rows: f"{rows[0]['filter']['p1']['all']['kept']['n']} of {rows[0]['filter']['p1']['all']['unfiltered']['n']}",
    **{f"{title}: all; within layers": _gain(rule) for rule, title in RULES.items()}, "holds": _verdict,
})  # fmt: skip
"""P1's findings in every kept run, a line a run."""


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
