"""What figures show of a table of thresholds: those at which something changes, and bands where enough features are kept."""

import polars as pl

SMALL = 1e-4
"""Thresholds below it are shown only where they keep other features than the threshold before."""
FEWEST = 5
"""Means of fewer features have no band: their intervals span most of the axis and say nothing."""
FEW_NOTE = f"no bands for fewer than {FEWEST} features"


def where_something_changes(curves: pl.DataFrame, *curve: str, always: float | None = None) -> pl.DataFrame:
    """Rows of `threshold` and `n_kept` without the small thresholds at which every curve keeps as many features as at the threshold before;
    `curve`: the columns that name a curve. The threshold `always` stays."""
    before = pl.col("n_kept").shift(1).over(*(curve or (pl.lit(0),)), order_by="threshold")
    small = curves.with_columns(changes=before.is_null() | (pl.col("n_kept") != before)).filter(pl.col("threshold") < SMALL)
    shown = small.filter("changes" if always is None else pl.col("changes") | (pl.col("threshold") == always))["threshold"]
    return curves.filter((pl.col("threshold") >= SMALL) | pl.col("threshold").is_in(shown.unique().implode()))


def banded(rows: pl.DataFrame, n: pl.Expr | str, *ends: str) -> pl.DataFrame:
    """The rows, the ends of intervals null where they are of fewer than FEWEST features."""
    enough = (pl.col(n) if isinstance(n, str) else n).cast(pl.Int64) >= FEWEST
    return rows.with_columns(pl.when(enough).then(end).alias(end) for end in ends)
