"""The filter's curves against enumeration of every removal and every arrangement inside layers."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.statistics import exact_p_within_layers, removal_means
from synthetic_tables import main_tables, selection_settings

from saesteer.analysis.selection import p_within_layers, random_removal, selection
from saesteer.analysis.tables import SELECTION
from saesteer.core.tables import validate
from saesteer.core.uncertainty import random_stream


@pytest.fixture(scope="module")
def outcomes() -> pl.DataFrame:
    return main_tables(n_layers=4, n_features=8, late_layers_from=2)["outcomes"]


SETTINGS = selection_settings(late_layers_from=2)


def point(frame: pl.DataFrame, measure: str, layers: str, threshold: float) -> dict[str, float | None]:
    return frame.filter(rule="capped", measure=measure, layers=layers, threshold=threshold).row(0, named=True)


def test_rows_are_plain_means_and_counts(outcomes: pl.DataFrame) -> None:
    """Layer 3 scores exactly the threshold: it is kept."""
    outcomes = outcomes.with_columns(output_score=pl.when(pl.col("layer") == 3).then(0.1).otherwise("output_score"))
    frame = validate(SELECTION, selection(outcomes, SETTINGS), "test")
    rows = [row for row in outcomes.iter_rows(named=True) if row["rule"] == "capped" and row["layer"] >= 2]
    judged = [row for row in rows if row["judge_score"] is not None]
    kept = [row["judge_score"] for row in judged if row["output_score"] >= 0.1]
    removed = [row["judge_score"] for row in judged if row["output_score"] < 0.1]
    estimate = point(frame, "judge_score", "late", 0.1)
    assert (estimate["n_features"], estimate["n_missing"], estimate["n_kept"]) == (len(judged), len(rows) - len(judged), len(kept))
    assert estimate["mean"] == pytest.approx(sum(kept) / len(kept))
    assert estimate["removed_mean"] == pytest.approx(sum(removed) / len(removed))
    assert estimate["low"] <= estimate["mean"] <= estimate["high"]


def test_grid_has_the_unfiltered_row_and_the_headline(outcomes: pl.DataFrame) -> None:
    frame = selection(outcomes, selection_settings(thresholds=(0.5,), headline_threshold=0.25))
    assert sorted(frame["threshold"].unique()) == [0.0, 0.25, 0.5]
    unfiltered = point(frame, "gen_success_20", "all", 0.0)
    assert unfiltered["n_kept"] == unfiltered["n_features"] == 32
    assert unfiltered["removed_mean"] is None
    assert unfiltered["p_within_layers"] is None
    assert unfiltered["random_low"] == pytest.approx(unfiltered["mean"])


def test_nothing_kept_and_nothing_late_is_null(outcomes: pl.DataFrame) -> None:
    frame = selection(outcomes.with_columns(output_score=pl.col("output_score") / 2), selection_settings(late_layers_from=99))
    for row in (point(frame, "gen_success_20", "all", 0.9), point(frame, "gen_success_20", "late", 0.0)):
        assert row["n_kept"] == 0
        assert [row[name] for name in ("mean", "low", "high", "random_mean", "random_low", "random_high", "p_within_layers")] == [None] * 7
    validate(SELECTION, frame, "test")


def test_adding_a_threshold_changes_no_other_row(outcomes: pl.DataFrame) -> None:
    few, more = (selection(outcomes, selection_settings(thresholds=grid)) for grid in ((0.1, 0.5), (0.05, 0.1, 0.2, 0.5, 0.6)))
    kept = more.filter(pl.col("threshold").is_in(few["threshold"].unique().to_list()))
    assert kept.sort(SELECTION.keys).equals(few.sort(SELECTION.keys))


def test_another_measure_or_rule_has_its_own_draws(outcomes: pl.DataFrame) -> None:
    same = outcomes.with_columns(pl.col("gen_success_20").alias("fluency_rating"))
    frame = selection(same, SETTINGS)
    a, b = (point(frame, measure, "all", 0.1) for measure in ("gen_success_20", "fluency_rating"))
    assert a["mean"] == b["mean"]
    assert a["random_mean"] != b["random_mean"]


def test_random_removal_is_the_enumeration_of_all_removals() -> None:
    """All 20 subsets of 3 of 6: mean and quantiles of many draws agree with theirs."""
    values = np.array([0.0, 0.0, 1.0, 2.0, 5.0, 9.0])
    exact = np.array(removal_means(values.tolist(), 3))
    drawn = random_removal(values, np.array([6, 3, 0]), 20000, random_stream(0))
    assert drawn[0] == pytest.approx(np.full(20000, values.mean()))
    assert drawn[1].mean() == pytest.approx(exact.mean(), abs=0.02)
    assert set(drawn[1].round(6)) == set(exact.round(6))
    shares = [(drawn[1].round(6) <= value).mean() - (exact.round(6) <= value).mean() for value in np.unique(exact.round(6))]
    assert np.abs(shares).max() < 0.015
    assert np.isnan(drawn[2]).all()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1)), min_size=3, max_size=7))
def test_p_is_the_share_of_all_arrangements(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: row[2])
    values, scores, layers = (np.array(column) for column in zip(*rows, strict=True))
    counts = np.array([(scores >= threshold).sum() for threshold in (0, 2, 3)])
    p_values = p_within_layers(values.astype(float), scores.astype(float), layers, counts, 4000, random_stream(0))
    for threshold, count, p_value in zip((0, 2, 3), counts, p_values, strict=True):
        if count in (0, len(rows)):
            assert p_value is None
        else:
            # 4,000 draws: the standard error is at most .008.
            assert p_value == pytest.approx(exact_p_within_layers(values.tolist(), scores.tolist(), layers.tolist(), threshold), abs=0.035)


def test_the_smallest_p_is_one_over_permutations_plus_one() -> None:
    values = np.arange(40.0)
    p_values = p_within_layers(values, values / 40, np.zeros(40, dtype=np.int64), np.array([20]), 999, random_stream(0))
    assert p_values == [0.001]
