"""One number from several ratings: their harmonic mean (AxBench, arXiv 2501.17148, section 3)."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.texts import RATING_COLUMNS, TEXT_KEYS

ALGORITHM_VERSION = 1


def harmonic_mean(ratings: Sequence[str]) -> pl.Expr:
    """n / (1/r1 + ... + 1/rn) of the rating columns named: 0 when one is 0, null when one is null."""
    columns = [pl.col(name).cast(pl.Float64) for name in ratings]
    inverse = pl.sum_horizontal(*(1.0 / column for column in columns))
    score = pl.when(pl.min_horizontal(*columns) == 0).then(0.0).otherwise(len(columns) / inverse)
    return pl.when(pl.any_horizontal(*(column.is_null() for column in columns))).then(None).otherwise(score)


def judgements(rated: pl.DataFrame, rates_blank: bool) -> pl.DataFrame:
    """The JUDGEMENTS rows of texts (GENERATIONS columns and concept) with ratings of concept and fluency by a judge that asks nobody, and
    why some have none. With `rates_blank` a blank text is rated 0 on both."""
    names = ["concept_rating", "fluency_rating"]
    if rates_blank:
        blank = pl.col("text").str.strip_chars().eq("") & pl.col("concept").is_not_null()
        rated = rated.with_columns(pl.when(blank).then(pl.lit(0, pl.UInt8)).otherwise(name).alias(name) for name in names)
    reason = (
        pl.when(pl.col("text").is_null())
        .then("reason")
        .when(pl.col("concept").is_null())
        .then(pl.lit("the feature has no clear concept"))
        .when(pl.col("concept_rating").is_null())
        .then(pl.lit("no content to rate"))
        .when(pl.col("fluency_rating").is_null())
        .then(pl.lit("no loss to rate"))
    )
    measured = (*RATING_COLUMNS, "concept_log_odds", "judge_score", "reason")
    return rated.with_columns(judge_score=harmonic_mean(names), reason=reason).select(*TEXT_KEYS, *measured)
