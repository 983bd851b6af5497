"""Where in the grid of factors choices lie on the public models, and what is written there."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.tables import BEST_FACTORS, CHOSEN_STRENGTHS
from saesteer.core.files import write_text
from saesteer.core.tables import read_summary
from studies.pages.public import MODELS, RESULTS
from studies.pages.tables import Row, Shown

FILE = "grid_ends.csv"
"""In an experiment's folder of results in git."""
PLACES = ("smallest", "within", "largest")
_CHOICE = ["layer", "feature", "rule", "reported_on", "factor"]


def grid_ends(strengths: pl.DataFrame, best: pl.DataFrame) -> pl.DataFrame:
    """CHOSEN_STRENGTHS and BEST_FACTORS -> rule, place, n, share, and means of net success and fluency on the held-out half; failed choices
    are none."""
    multiple = pl.col("multiple").cast(pl.Float64)
    place = pl.when(multiple == multiple.min()).then(pl.lit(PLACES[0])).when(multiple == multiple.max()).then(pl.lit(PLACES[2]))
    chosen = strengths.drop_nulls("factor").with_columns(place=place.otherwise(pl.lit(PLACES[1]))).join(best, on=_CHOICE)
    means = [pl.col(name).mean() for name in ("net_gen_success_20", "fluency_rating")]
    rows = chosen.group_by("rule", "place").agg(pl.len().alias("n"), *means).with_columns(share=pl.col("n") / pl.sum("n").over("rule"))
    return rows.sort(pl.col("rule"), pl.col("place").replace_strict({name: number for number, name in enumerate(PLACES)}))


def update_grid_ends(root: Path) -> None:
    """Write the file of each public model whose sweep is finished."""
    for experiment in MODELS:
        strengths, best = (root / "data" / experiment / table.path for table in (CHOSEN_STRENGTHS, BEST_FACTORS))
        if strengths.is_file() and best.is_file():
            rows = grid_ends(read_summary(CHOSEN_STRENGTHS, strengths), read_summary(BEST_FACTORS, best))
            write_text(root / RESULTS / experiment / FILE, rows.write_csv(float_precision=4))


def _rows(root: Path) -> Iterator[Row]:
    for experiment, model in MODELS.items():
        file = root / RESULTS / experiment / FILE
        yield from (row | {"model": model} for row in (pl.read_csv(file).to_dicts() if file.is_file() else []))


GRID_ENDS = Shown(_rows, "model rule place", {
    "model": "model", "factor by": lambda rows: RULES[rows[0]["rule"]], "factor of the grid": "place", "choices": "n", "share": "share .1%",
    "net GenSuccess@20": "net_gen_success_20 .2", "fluency rating": "fluency_rating .2",
})  # fmt: skip
