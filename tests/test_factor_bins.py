"""Bins of the output score against plain loops."""

import math

import polars as pl
import pytest
from synthetic_tables import selection_settings, synthetic_features, synthetic_steering

from saesteer.analysis.factor_bins import factor_bins
from saesteer.analysis.tables import FACTOR_BINS
from saesteer.core.tables import validate

EDGES = (0.0, 0.1, 0.5, 1.0)


def bins(steering: pl.DataFrame, features: pl.DataFrame, edges: tuple[float, ...] = EDGES) -> pl.DataFrame:
    return validate(FACTOR_BINS, factor_bins(steering, features, edges, selection_settings()), "test")


def small(scores: list[float]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features of these output scores and their steering at factors 0, 2, 6."""
    features = synthetic_features(1, len(scores)).with_columns(output_score=pl.Series(scores))
    return synthetic_steering(features, ("0", "2", "6")), features


def test_edges_lower_included_upper_excluded_but_one_is_in() -> None:
    rows = bins(*small([0.0, 0.1, 0.3, 0.5, 1.0, 1.0])).filter(factor="2")
    assert rows.select("output_score_low", "n_features").rows() == [(0.0, 1), (0.1, 2), (0.5, 3)]


def test_bins_without_features_have_no_rows_and_one_feature_no_interval() -> None:
    rows = bins(*small([0.2, 0.7, 0.9])).sort("output_score_low", "factor")
    assert rows["output_score_low"].unique().to_list() == [0.1, 0.5]
    one = rows.filter(output_score_low=0.1)
    assert one["gen_success_20_low"].null_count() == one["perplexity_high"].null_count() == 3
    two = rows.filter(output_score_low=0.5)
    assert (two["perplexity_low"] <= two["perplexity"]).all()
    assert (two["gen_success_20_high"] >= two["gen_success_20"]).all()


def test_means_by_hand() -> None:
    """Two features in one bin at factor 2. Success: (1 x 10 + 4 x 30) / 40 = 3.25 and 2, mean 2.625.

    Log perplexity: (1 x 10 + 2 x 30) / 40 = 1.75 and 1 (its other half has none), so exp(1.375).
    """
    features = synthetic_features(1, 2).with_columns(output_score=pl.lit(0.2))
    steering = synthetic_steering(features, ("0", "2")).sort("feature", "factor", "half")
    at_two = pl.col("factor") == "2"
    values = {
        "n": [10, 30, 10, 10],
        "gen_success_20": [1.0, 4.0, 2.0, 2.0],
        "log_perplexity": [1.0, 2.0, 1.0, None],
        "n_perplexity": [10, 30, 5, 0],
    }
    changed = steering.filter(at_two).with_columns(pl.Series(name, v, steering.schema[name]) for name, v in values.items())
    row = bins(pl.concat([steering.filter(~at_two), changed]), features).filter(factor="2").row(0, named=True)
    assert row["gen_success_20"] == pytest.approx(2.625)
    assert row["perplexity"] == pytest.approx(math.exp(1.375))


def test_all_texts_empty_is_null() -> None:
    steering, features = small([0.2, 0.3])
    empty = pl.col("factor") == "6"
    steering = steering.with_columns(
        log_perplexity=pl.when(~empty).then("log_perplexity"), n_perplexity=pl.when(empty).then(0).otherwise("n_perplexity").cast(pl.UInt32)
    )
    row = bins(steering, features).filter(factor="6").row(0, named=True)
    assert (row["perplexity"], row["perplexity_low"], row["perplexity_high"]) == (None, None, None)
    assert row["gen_success_20"] >= 0


def test_another_bin_changes_nothing() -> None:
    features = synthetic_features(4, 10)
    steering = synthetic_steering(features, ("0", "2", "6"))
    whole = bins(steering, features)
    split = bins(steering, features, (0.0, 0.05, 0.1, 0.5, 1.0))
    assert split.filter(pl.col("output_score_low") >= 0.1).equals(whole.filter(pl.col("output_score_low") >= 0.1))
