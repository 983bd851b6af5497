"""The README's table of steering methods: every method at every layer, and on the world's other seeds. Nobody types a number."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saesteer.core.markdown import number, table
from saesteer.core.tables import METHOD_SUMMARIES, read_summary
from saesteer.settings.registry import METHODS

KEPT = (
    *("layer", "method", "title", "n", "score", "score_low", "score_high", "n_abstaining", "surviving_score", "n_surviving"),
    *("concept_rating", "fluency_rating", "median_relative_change", "n_missing", "n_texts", "n_effect_vectors"),
)
"""Columns of METHODS_TABLE that the README needs."""

_Rows = Sequence[Mapping[str, Any]]


def kept_results(path: Path) -> list[dict[str, Any]]:
    """METHODS_TABLE -> the rows that are kept in git."""
    return read_summary(METHOD_SUMMARIES["methods"], path).select(KEPT).to_dicts()


def methods_readme(by_seed: Mapping[int, _Rows]) -> str:
    """Seed of the world -> kept results: a row a method, best first by its mean over seed 0's layers."""
    shown = by_seed[0]
    layers = sorted({row["layer"] for row in shown})
    names = sorted({row["method"] for row in shown}, key=lambda name: (-_mean(shown, name), name))
    header = ["method", *(f"layer {layer}" for layer in layers), "concept / fluency", "of residual norm", "abstains"]
    header += [f"seed {seed}" for seed in sorted(set(by_seed) - {0})]

    def cells(name: str) -> list[str]:
        rows = [_row(shown, name, layer) for layer in layers]
        others = [" / ".join(number(_row(by_seed[seed], name, layer)["score"]) for layer in layers) for seed in sorted(set(by_seed) - {0})]
        ratings = f"{number(rows[-1]['concept_rating'])} / {number(rows[-1]['fluency_rating'])}"
        abstains = " / ".join(str(row["n_abstaining"]) for row in rows)
        return [rows[0]["title"], *map(_score, rows), ratings, number(rows[-1]["median_relative_change"]), abstains, *others]

    n = shown[0]["n"]
    note = f"n = {n} concepts; mean [95 %]; layers of other seeds in the same order; ratings and norm at layer {layers[-1]}.\n"
    fitted_on = [row["n_effect_vectors"] for row in shown if row.get("n_effect_vectors")]
    if fitted_on:
        note += f"SAE-TS and FGAA: their approximator is fitted on {max(fitted_on):,} vectors (P2: 50,000).\n"
    return f"{table(header, map(cells, names))}\n\n{note}"


def _mean(rows: _Rows, name: str) -> float:
    scores = [row["score"] for row in rows if row["method"] == name and row["score"] is not None]
    return sum(scores) / len(scores) if scores else 0.0


def _row(rows: _Rows, name: str, layer: int) -> Mapping[str, Any]:
    return next((row for row in rows if (row["method"], row["layer"]) == (name, layer)), {"score": None})


def _score(row: Mapping[str, Any]) -> str:
    if row["score"] is None or row["score_low"] is None:
        return number(row["score"])
    return f"{number(row['score'])} [{number(row['score_low'])}, {number(row['score_high'])}]"


def registry_markdown() -> str:
    """Every method of the registry: its paper, what it is given, what chooses, and the module that fits it."""
    rows = (
        [row.title, f"`{row.name}`", row.paper, ", ".join(row.needs), row.chosen_by, row.text_use, f"`{row.module}`"] for row in METHODS
    )
    return table(["method", "key", "from", "needs", "chosen by", "labelled texts", "module"], rows)
