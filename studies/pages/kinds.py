"""SAEs of other kinds and sparsities of the shipped model: their results in git, and the rows of their tables and figures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from studies.pages import questions
from studies.pages.kinds_figure import SHOWN
from studies.questions.choice_rules import BY_JUDGE
from studies.questions.registry import QUESTION_TABLES

SHIPPED = "shipped"
TABLE = "choice_rules"
MEASURES = ("l0", "explained_variance", "silent")
_SCORE = ("layer", "rule", "n_concepts", "score", "score_low", "score_high")
_ABOVE_RANDOM = ("above_random", "above_random_low", "above_random_high")
EXPERIMENT = "tiny-brute"
"""On the shipped SAEs; those on the others have the kind behind it."""
FOLDER = Path("docs/kinds")
"""In git."""
BUILT = Path("build/kinds/metrics.json")
"""L0 and explained variance of every kind (studies.world.sae_kinds)."""
NAMES = {
    "k4": "BatchTopK, k 4",
    SHIPPED: "BatchTopK, k 12",
    "k36": "BatchTopK, k 36",
    "topk": "TopK, k 12",
    "jumprelu": "JumpReLU",
    "gated": "gated",
}
"""Kind -> what it is."""


def drawn(root: Path) -> pl.DataFrame:
    """The held-out score of what each rule picks: kind, layer, l0, rule, n_concepts, score and the ends of its interval."""
    return pl.DataFrame(rows(root)).select("kind", "l0", *_SCORE)


def rows(root: Path) -> Iterator[dict[str, Any]]:
    """A row a kind, layer and rule of those shown, layer by layer by the number of active features: the pick's score beside the SAE's
    measures."""
    for kind, layer, measures in _measured(root):
        picks = pl.read_csv(_tables(root, kind) / f"{TABLE}.csv", schema=QUESTION_TABLES[TABLE].schema)
        scores = picks.filter(pl.col("rule").is_in(SHOWN), factor_rule=BY_JUDGE, layer=layer)
        for row in scores.select(*_SCORE, *_ABOVE_RANDOM).iter_rows(named=True):
            yield {"kind": NAMES[kind], **{name: measures[name] for name in MEASURES}, **row}


def _measured(root: Path) -> list[tuple[str, int, dict[str, float]]]:
    """Kind, layer and measures of what is in git, layer by layer by the number of active features."""
    measured = json.loads((root / FOLDER / "metrics.json").read_text(encoding="utf-8"))
    of_layers = [(kind, int(layer), values) for kind in NAMES if _tables(root, kind).is_dir() for layer, values in measured[kind].items()]
    return sorted(of_layers, key=lambda row: (row[1], row[2]["l0"]))


def _tables(root: Path, kind: str) -> Path:
    """Where git has a kind's tables."""
    return root / (questions.FOLDER / EXPERIMENT if kind == SHIPPED else FOLDER / kind)
