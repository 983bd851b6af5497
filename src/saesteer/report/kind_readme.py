"""The documentation's table and figure of SAEs of other kinds and sparsities, from results kept in git. Nobody types a number."""

import json
from pathlib import Path

import polars as pl

from saesteer.analysis.choice_rules import BY_JUDGE
from saesteer.core.files import write_json, write_text
from saesteer.core.markdown import number, table, with_interval
from saesteer.core.tables import QUESTION_SUMMARIES, read_summary
from saesteer.figures.choice_rules import TITLES
from saesteer.figures.sae_kinds import SHOWN, draw
from saesteer.figures.save import save_figure

EXPERIMENT = "tiny-brute"
"""The experiment on the shipped SAEs; those on the others have the kind behind it."""
BUILT = Path("build/kinds/metrics.json")
"""L0 and explained variance of every kind (world.sae_kinds)."""
SHIPPED = "shipped"
NAMES = {
    "k4": "BatchTopK, k 4",
    SHIPPED: "BatchTopK, k 12",
    "k36": "BatchTopK, k 36",
    "topk": "TopK, k 12",
    "jumprelu": "JumpReLU",
    "gated": "gated",
}
_TABLES = ("choice_rules", "headline_samples")


def keep_results(root: Path, folder: Path) -> None:
    """Keep in git what is finished, rounded, and draw the figure beside it."""
    write_json(folder / "metrics.json", json.loads((root / BUILT).read_text(encoding="utf-8")))
    for kind in NAMES:
        for name in _TABLES:
            made = root / f"data/{EXPERIMENT}-{kind}/tables/{name}.parquet"
            if made.is_file():
                write_text(folder / kind / f"{name}.csv", read_summary(QUESTION_SUMMARIES[name], made).write_csv(float_precision=4))
    rows = _picks(folder)
    save_figure(draw(rows), rows, folder / "kinds")


def kinds_markdown(folder: Path) -> str:
    """A row a kind and layer, by the number of active features."""
    picks = {(row["kind"], row["layer"], row["rule"]): row for row in _picks(folder).iter_rows(named=True)}
    lines = []
    for kind, layer, measured in _measured(folder):
        success = _read(folder, kind, "headline_samples").filter(measure="gen_success_20", layers=str(layer)).row(0, named=True)
        own = [picks[NAMES[kind], layer, rule] for rule in SHOWN]
        measures = (number(measured[name], digits) for name, digits in (("l0", 1), ("explained_variance", 3), ("silent", 2)))
        kept = [f"{success['n_kept']} of {success['n']}", number(success["mean"]), with_interval(success, "ratio")]
        lines.append([layer, NAMES[kind], *measures, *kept, own[0]["n_concepts"], *(with_interval(row, "score") for row in own)])
    header = ["layer", "SAE", "L0", "explained variance", "never fire", "output score ≥ .3", "GenSuccess@20", "kept over all", "concepts"]
    return table([*header, *(TITLES[rule] for rule in SHOWN)], lines) + "\n"


def _measured(folder: Path) -> list[tuple[str, int, dict[str, float]]]:
    """Kind, layer and measures of what is kept, layer by layer by the number of active features."""
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    kept = [kind for kind in NAMES if kind == SHIPPED or (folder / kind).is_dir()]
    rows = [(kind, int(layer), measures) for kind in kept for layer, measures in measured[kind].items()]
    return sorted(rows, key=lambda row: (row[1], row[2]["l0"]))


def _picks(folder: Path) -> pl.DataFrame:
    """The held-out score of what each rule picks: kind, layer, l0, rule, n_concepts, score and the ends of its interval."""
    columns = ("layer", "rule", "n_concepts", "score", "score_low", "score_high")
    parts = [
        _read(folder, kind, "choice_rules")
        .filter(pl.col("rule").is_in(SHOWN), factor_rule=BY_JUDGE, layer=layer)
        .select(pl.lit(NAMES[kind]).alias("kind"), pl.lit(measures["l0"]).alias("l0"), *columns)
        for kind, layer, measures in _measured(folder)
    ]
    return pl.concat(parts)


def _read(folder: Path, kind: str, name: str) -> pl.DataFrame:
    kept = folder.parent / "open-questions" / EXPERIMENT if kind == SHIPPED else folder / kind
    return pl.read_csv(kept / f"{name}.csv", schema=QUESTION_SUMMARIES[name].schema)
