"""The documentation's table and figure of SAEs of other kinds and sparsities, from results kept in git. Nobody types a number."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from saesteer.analysis.choice_rules import BY_JUDGE
from saesteer.core.files import write_json, write_text
from saesteer.core.markdown import number, table, with_interval
from saesteer.core.tables import QUESTION_SUMMARIES, read_summary
from saesteer.figures.choice_rules import TITLES
from saesteer.figures.sae_kinds import SHOWN, draw
from saesteer.figures.save import save_figure

SHIPPED = "shipped"
_TABLES = ("choice_rules", "headline_samples")


@dataclass(frozen=True)
class Kinds:
    """A shipped model's SAEs of all kinds."""

    experiment: str
    """On the shipped SAEs; those on the others have the kind behind it."""
    kept: Path
    """The folder in git."""
    built: Path
    """L0 and explained variance of every kind (world.sae_kinds)."""
    names: Mapping[str, str]
    """Kind -> what it is."""


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


def keep_results(root: Path, kinds: Kinds) -> None:
    """Keep in git what is finished, rounded, and draw the figure beside it; the shipped SAEs' rows change without the others'."""
    folder = root / kinds.kept
    if (root / kinds.built).is_file():
        write_json(folder / "metrics.json", json.loads((root / kinds.built).read_text(encoding="utf-8")))
    for kind in kinds.names:
        for name in _TABLES:
            made = root / f"data/{kinds.experiment}-{kind}/tables/{name}.parquet"
            if made.is_file():
                write_text(folder / kind / f"{name}.csv", read_summary(QUESTION_SUMMARIES[name], made).write_csv(float_precision=4))
    rows = picks_of(root, kinds)
    save_figure(draw(rows), rows, folder / "kinds")


def kinds_markdown(root: Path, kinds: Kinds) -> str:
    """A row a kind and layer, by the number of active features."""
    picks = {(row["kind"], row["layer"], row["rule"]): row for row in picks_of(root, kinds).iter_rows(named=True)}
    lines = []
    for kind, layer, measured in _measured(root, kinds):
        success = _read(root, kinds, kind, "headline_samples").filter(measure="gen_success_20", layers=str(layer)).row(0, named=True)
        own = [picks[kinds.names[kind], layer, rule] for rule in SHOWN]
        measures = (number(measured[name], digits) for name, digits in (("l0", 1), ("explained_variance", 3), ("silent", 2)))
        kept = [f"{success['n_kept']} of {success['n']}", number(success["mean"]), with_interval(success, "ratio")]
        lines.append([layer, kinds.names[kind], *measures, *kept, own[0]["n_concepts"], *(with_interval(row, "score") for row in own)])
    header = ["layer", "SAE", "L0", "explained variance", "never fire", "output score ≥ .3", "GenSuccess@20", "kept over all", "concepts"]
    return table([*header, *(TITLES[rule] for rule in SHOWN)], lines) + "\n"


def _measured(root: Path, kinds: Kinds) -> list[tuple[str, int, dict[str, float]]]:
    """Kind, layer and measures of what is kept, layer by layer by the number of active features."""
    measured = json.loads((root / kinds.kept / "metrics.json").read_text(encoding="utf-8"))
    kept = [kind for kind in kinds.names if kind == SHIPPED or (root / kinds.kept / kind).is_dir()]
    rows = [(kind, int(layer), measures) for kind in kept for layer, measures in measured[kind].items()]
    return sorted(rows, key=lambda row: (row[1], row[2]["l0"]))


def picks_of(root: Path, kinds: Kinds) -> pl.DataFrame:
    """The held-out score of what each rule picks: kind, layer, l0, rule, n_concepts, score and the ends of its interval."""
    columns = ("layer", "rule", "n_concepts", "score", "score_low", "score_high")
    parts = [
        _read(root, kinds, kind, "choice_rules")
        .filter(pl.col("rule").is_in(SHOWN), factor_rule=BY_JUDGE, layer=layer)
        .select(pl.lit(kinds.names[kind]).alias("kind"), pl.lit(measures["l0"]).alias("l0"), *columns)
        for kind, layer, measures in _measured(root, kinds)
    ]
    return pl.concat(parts)


def _read(root: Path, kinds: Kinds, kind: str, name: str) -> pl.DataFrame:
    kept = Path("docs/open-questions") / kinds.experiment if kind == SHIPPED else kinds.kept / kind
    return pl.read_csv(root / kept / f"{name}.csv", schema=QUESTION_SUMMARIES[name].schema)
