"""SAEs of other kinds and sparsities of the shipped models: their results in git, and the rows of their tables and figures."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from studies.pages import questions
from studies.pages.kinds_figure import SHOWN
from studies.questions.choice_rules import BY_JUDGE
from studies.questions.registry import QUESTION_TABLES

SHIPPED = "shipped"
TABLES = ("choice_rules", "headline_samples")
MEASURES = ("l0", "explained_variance", "silent")
_SCORE = ("layer", "rule", "n_concepts", "score", "score_low", "score_high")
_ABOVE_RANDOM = ("above_random", "above_random_low", "above_random_high")
_SUCCESS = ("n", "n_kept", "mean", "ratio", "ratio_low", "ratio_high")


@dataclass(frozen=True)
class Kinds:
    """A shipped model's SAEs of all kinds."""

    experiment: str
    """On the shipped SAEs; those on the others have the kind behind it."""
    folder: Path
    """In git."""
    built: Path
    """L0 and explained variance of every kind (studies.world.sae_kinds)."""
    names: Mapping[str, str]
    """Kind -> what it is."""

    @property
    def further(self) -> list[str]:
        """The kinds that are not shipped."""
        return [kind for kind in self.names if kind != SHIPPED]

    def tables(self, kind: str) -> Path:
        """Where git has a kind's tables."""
        return questions.FOLDER / self.experiment if kind == SHIPPED else self.folder / kind


def _names(sparse: int, shipped: int, dense: int) -> dict[str, str]:
    """Kind -> what it is, of BatchTopK SAEs at three k, and the others."""
    of_k = {f"k{sparse}": sparse, SHIPPED: shipped, f"k{dense}": dense}
    return {kind: f"BatchTopK, k {k}" for kind, k in of_k.items()} | {
        "topk": f"TopK, k {shipped}",
        "jumprelu": "JumpReLU",
        "gated": "gated",
    }


GRAMMAR = Kinds("tiny-brute", Path("docs/kinds"), Path("build/kinds/metrics.json"), _names(4, 12, 36))
BOOKS = Kinds(
    "books-brute",
    Path("docs/books/kinds"),
    Path("build/books/seed_0/kinds/metrics.json"),
    _names(8, 25, 75) | {"jumprelu-sparse": "JumpReLU, sparser", "jumprelu-dense": "JumpReLU, denser"},
)


def drawn(root: Path, kinds: Kinds) -> pl.DataFrame:
    """The held-out score of what each rule picks: kind, layer, l0, rule, n_concepts, score and the ends of its interval."""
    return pl.DataFrame(rows(root, kinds)).select("kind", "l0", *_SCORE)


def rows(root: Path, kinds: Kinds) -> Iterator[dict[str, Any]]:
    """A row a kind, layer and rule of those shown, layer by layer by the number of active features: the pick's score beside the SAE's
    measures and its features' GenSuccess."""
    for kind, layer, measures in _measured(root, kinds):
        picks, samples = (_read(root, kinds, kind, name) for name in TABLES)
        success = samples.filter(measure="gen_success_20", layers=str(layer)).select(_SUCCESS).row(0, named=True)
        scores = picks.filter(pl.col("rule").is_in(SHOWN), factor_rule=BY_JUDGE, layer=layer)
        for row in scores.select(*_SCORE, *_ABOVE_RANDOM).iter_rows(named=True):
            yield {"kind": kinds.names[kind], **{name: measures[name] for name in MEASURES}, **success, **row}


def _measured(root: Path, kinds: Kinds) -> list[tuple[str, int, dict[str, float]]]:
    """Kind, layer and measures of what is in git, layer by layer by the number of active features."""
    measured = json.loads((root / kinds.folder / "metrics.json").read_text(encoding="utf-8"))
    finished = [kind for kind in kinds.names if (root / kinds.tables(kind)).is_dir()]
    of_layers = [(kind, int(layer), measures) for kind in finished for layer, measures in measured[kind].items()]
    return sorted(of_layers, key=lambda row: (row[1], row[2]["l0"]))


def _read(root: Path, kinds: Kinds, kind: str, name: str) -> pl.DataFrame:
    return pl.read_csv(root / kinds.tables(kind) / f"{name}.csv", schema=QUESTION_TABLES[name].schema)
