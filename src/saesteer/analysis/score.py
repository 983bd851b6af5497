"""One number from several ratings: their harmonic mean (AxBench, arXiv 2501.17148, section 3)."""

from collections.abc import Sequence

import polars as pl

ALGORITHM_VERSION = 1


def harmonic_mean(ratings: Sequence[str]) -> pl.Expr:
    """n / (1/r1 + ... + 1/rn) of the rating columns named: 0 when one is 0, null when one is null."""
    columns = [pl.col(name).cast(pl.Float64) for name in ratings]
    inverse = pl.sum_horizontal(*(1.0 / column for column in columns))
    score = pl.when(pl.min_horizontal(*columns) == 0).then(0.0).otherwise(len(columns) / inverse)
    return pl.when(pl.any_horizontal(*(column.is_null() for column in columns))).then(None).otherwise(score)
