"""The tables of how far the linear model of steering's effects goes (SAE-TS)."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from studies.pages.tables import Row, Rows, Shown, markdown
from studies.questions.tables import APPROXIMATOR_SIZES, EFFECT_LAYERS, EFFECT_MULTIPLES, PSEUDO_INVERSES

FOLDERS = {"tiny-effects": "docs/effects", "tiny-effects-llama": "docs/effects/llama", "tiny-effects-neox": "docs/effects/neox"}
"""Experiment on the approximator of steering's effects -> the folder that keeps its results, the shipped model's first."""
SHIPPED = FOLDERS["tiny-effects"]
COMMON_SIZE = 512
"""Fitted vectors that every model's experiment has."""
_MODELS = ("linear", "kernel")
_TWICE = {"multiple": 2.0}
_LINES_AND_COLUMNS = {
    "approximator_sizes": ("n", {"vectors": "n ,", "{model}, layer {layer}": "r2 ±"}),
    "effect_multiples": ("layer multiple", {
        "layer": "layer", "multiple": "multiple g", "loss rise, nats a token": "loss_rise ±", "norm over that at 1": "size ±",
        "cosine with that at 1": "cosine ±", "cosine, predicted and measured": "pattern ±", "R² of the prediction": "r2 ±",
    }),
    "pseudo_inverses": ("layer target", {
        "layer": "layer", "code aimed at": "target g", "condition of M": "condition .0", "cosine with M_j": "column_cosine ±",
        "cosine with what all share": "shared_cosine ±",
    }),
}  # fmt: skip
"""Table of the shipped model's experiment -> how it is shown."""


def results(root: Path, folder: str, name: str) -> list[Row]:
    """Rows of an experiment's table that lies in git."""
    rows: list[Row] = [*pl.read_csv(root / folder / f"{name}.csv", infer_schema_length=None).iter_rows(named=True)]
    return rows


def shipped_markdown(root: Path) -> str:
    """R2 by number of vectors, effects by multiple, and vectors by pseudo-inverse."""
    rows = {name: results(root, SHIPPED, name) for name in _LINES_AND_COLUMNS}
    tables = [markdown(rows[name], lines, columns) for name, (lines, columns) in _LINES_AND_COLUMNS.items()]
    return "\n\n".join([*tables, f"n = {rows['approximator_sizes'][0]['n_held_out']} held-out vectors. 95 % intervals."])


TABLES = (APPROXIMATOR_SIZES, EFFECT_MULTIPLES, PSEUDO_INVERSES)
"""Of the effects of each experiment in FOLDERS."""


def _of_all(root: Path) -> Iterator[Row]:
    for experiment, folder in FOLDERS.items():
        for table in TABLES:
            yield from ({"experiment": f"`{experiment}`", **row} for row in results(root, folder, table.name))


def _of_layers(root: Path) -> list[Row]:
    """The largest approximators."""
    rows = results(root, SHIPPED, EFFECT_LAYERS.name)
    largest = max(row["n"] for row in rows)
    return sorted((row for row in rows if row["n"] == largest), key=lambda row: (row["layer"], _MODELS.index(row["model"])))


def _layers_note(rows: Rows) -> str:
    return f"n = {rows[0]['n_held_out']} held-out vectors, {rows[0]['n']} fitted. 95 % intervals."


ALL_MODELS = Shown(_of_all, "experiment layer", {
    "experiment": "experiment", "layer": "layer",
    "R², linear": ("r2 ±", {"model": "linear", "n": COMMON_SIZE}), "R², kernel": ("r2 ±", {"model": "kernel", "n": COMMON_SIZE}),
    "at 2: norm over that at 1": ("size ±", _TWICE), "at 2: cosine": ("cosine ±", _TWICE), "at 2: R²": ("r2 ±", _TWICE),
})  # fmt: skip
LATER_LAYERS = Shown(_of_layers, "layer model", {
    "vectors added at layer": "layer", "model": "model", "R², read at layer {read_layer}": "r2 ±",
}, note=_layers_note)  # fmt: skip
