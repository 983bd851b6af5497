"""What the output score says of steering: the filter's curves against enumeration of every removal and every arrangement inside layers, the
variants of its gain against plain means, and bins of the score against plain loops."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.statistics import exact_p_within_layers, removal_means
from synthetic_tables import selection_settings, synthetic_features, synthetic_outcomes, synthetic_steering

from saesteer.analysis import best_factor
from saesteer.analysis.selection import (
    BINS,
    CONTROLS,
    SUCCESSES,
    factor_bins,
    filter_variants,
    lens_frequencies,
    p_within_layers,
    random_removal,
    selection,
)
from saesteer.analysis.tables import FACTOR_BINS, FILTER_VARIANTS, SELECTION, STEERING
from saesteer.core.tables import validate
from saesteer.core.uncertainty import random_stream
from saesteer.figures.filter_variants import furthest
from saesteer.settings import BestFactorSettings


@pytest.fixture(scope="module")
def outcomes() -> pl.DataFrame:
    return synthetic_outcomes(4, 8)


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


# Variants of the gain


OF_VARIANTS = selection_settings(permutations=200)
CHOICE = BestFactorSettings()
Sizes = dict[tuple[int, int], float]
"""By layer and feature."""


@pytest.fixture(scope="module")
def world() -> dict[str, pl.DataFrame]:
    """No two features of a layer are as dense."""
    features = synthetic_features(4, 24)
    dense = features.with_columns(density=(pl.int_range(pl.len()) * 41 % 89 + 1) / 100)
    return {"features": dense, "steering": synthetic_steering(features)}


def frequencies_of(features: pl.DataFrame) -> pl.DataFrame:
    """Of 97 different sizes, so that no two features of a layer are alike."""
    return features.select("layer", "feature", frequency=pl.int_range(pl.len()) * 37 % 97 / 97)


@pytest.fixture(scope="module")
def variants(world: dict[str, pl.DataFrame]) -> pl.DataFrame:
    features = world["features"]
    rows = filter_variants(world["steering"], features, frequencies_of(features), CHOICE, OF_VARIANTS)
    return validate(FILTER_VARIANTS, rows, "test")


def test_every_variant_is_there_and_one_is_registered(variants: pl.DataFrame) -> None:
    assert variants.height == 2 * 3 * 2 * 3 * 2
    keys = [("held_out", "continuation", "capped", success) for success in ("net_concept_outside", "net_gen_success_20")]
    registered = variants.filter("is_registered")
    assert registered.select("factor_choice", "perplexity", "rule", "success").unique().sort("success").rows() == keys
    assert registered["layers"].unique().sort().to_list() == ["all", "late"]


def test_gains_are_plain_ratios_of_means(world: dict[str, pl.DataFrame], variants: pl.DataFrame) -> None:
    features = world["features"]
    frequencies, densities = (
        {(layer, feature): value for layer, feature, value in of.rows()}
        for of in (frequencies_of(features), features.select("layer", "feature", "density"))
    )
    for factor_choice, perplexity, success in product(("held_out", "same_texts"), ("continuation", "whole_text"), SUCCESSES):
        choice = BestFactorSettings(factor_choice=factor_choice, perplexity=perplexity)
        rows = (
            best_factor.outcomes(best_factor.best_factors(world["steering"], choice), features)
            .filter(rule="p1")
            .drop_nulls(success)
            .to_dicts()
        )
        row = variants.filter(factor_choice=factor_choice, perplexity=perplexity, rule="p1", success=success, layers="all").row(
            0, named=True
        )
        kept = [one for one in rows if one["output_score"] >= 0.3]
        assert (row["n_features"], row["n_kept"]) == (len(rows), len(kept))
        assert row["ratio"] == pytest.approx(mean(kept, success) / mean(rows, success))
        assert row["within_layers"] == pytest.approx(mean(kept, success) / expected(kept, rows, success, lambda one: one["layer"]))

        for control, values in (("matched", frequencies), ("matched_density", densities)):

            def stratum(one: dict[str, float], rows: list[dict[str, float]] = rows, values: Sizes = values) -> tuple[float, int]:
                place = (one["layer"], one["feature"])
                alike = sorted(values[other["layer"], other["feature"]] for other in rows if other["layer"] == one["layer"])
                return one["layer"], alike.index(values[place]) * BINS // len(alike)

            assert row[control] == pytest.approx(mean(kept, success) / expected(kept, rows, success, stratum))


def mean(rows: list[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def expected(kept: list[dict[str, float]], rows: list[dict[str, float]], name: str, stratum: Callable[[dict[str, float]], object]) -> float:
    """The mean of as many features of each stratum as are kept there."""
    of_stratum: dict[object, list[float]] = {}
    for row in rows:
        of_stratum.setdefault(stratum(row), []).append(row[name])
    return float(np.mean([np.mean(of_stratum[stratum(row)]) for row in kept]))


def test_a_gain_that_common_lens_tokens_make_is_none_net_of_unsteered_texts() -> None:
    """By hand: kept features' tokens are common, so that unsteered texts hold 2 where others' hold 1; steering adds one to each."""
    features = synthetic_features(2, 8).with_columns(is_common=pl.int_range(pl.len()).over("layer") < 2)
    rows = []
    for (layer, feature, is_common), half, factor in product(features.select("layer", "feature", "is_common").rows(), (0, 1), ("0", "1")):
        success = (2.0 if is_common else 1.0) + (factor == "1")
        row = {"layer": layer, "feature": feature, "factor": factor, "half": half, "n": 10, "n_perplexity": 10, "n_judged": 0}
        rows.append(row | dict.fromkeys(("gen_success_1", "gen_success_5", "gen_success_20"), success) | {"log_perplexity": 1.0})
    steering = pl.DataFrame(rows, schema=STEERING.schema)
    features = features.with_columns(output_score=pl.when("is_common").then(0.9).otherwise(0.1)).drop("is_common")
    frequencies = features.select("layer", "feature", frequency=pl.int_range(pl.len()).over("layer").cast(pl.Float64))
    of_all = filter_variants(steering, features, frequencies, CHOICE, OF_VARIANTS).filter(
        layers="all", rule="capped", perplexity="continuation"
    )
    of_all = of_all.filter(factor_choice="held_out")
    plain, net, outside = (of_all.filter(success=name).row(0, named=True) for name in SUCCESSES)
    assert (outside["n_features"], outside["mean"], outside["ratio"], outside["p_within_layers"]) == (0, None, None, None)
    assert (plain["mean"], plain["kept_mean"], plain["ratio"]) == (2.25, 3.0, pytest.approx(4 / 3))
    assert plain["p_within_layers"] < 0.05
    assert (net["mean"], net["kept_mean"], net["ratio"], net["p_within_layers"]) == (1.0, 1.0, 1.0, 1.0)
    # The two kept features of a layer are the bin of its rarest tokens: nothing is there to be compared with.
    assert (plain["matched"], plain["matched_low"], plain["p_matched"]) == (None, None, None)


def test_a_control_needs_the_density_of_every_feature(world: dict[str, pl.DataFrame]) -> None:
    features = world["features"].with_columns(density=pl.when(pl.int_range(pl.len()) > 0).then("density"))
    row = filter_variants(world["steering"], features, frequencies_of(features), CHOICE, OF_VARIANTS).row(0, named=True)
    assert (row["matched_density"], row["matched_density_high"], row["p_matched_density"]) == (None, None, None)
    assert row["matched"] is not None


def test_a_features_frequency_is_the_share_of_unsteered_tokens_that_are_its_own() -> None:
    features = pl.DataFrame(
        {"layer": [0, 0, 1], "feature": [3, 4, 3], "top_logit_lens_token_ids": [[1, 2], [7], [5, 1]]},
        schema_overrides={"top_logit_lens_token_ids": pl.List(pl.UInt32)},
    )
    texts = pl.DataFrame({"token_ids": [[1, 1, 9], [2], [], None, [5]]}, schema={"token_ids": pl.List(pl.UInt32)})
    rows = lens_frequencies(texts, features).sort("layer", "feature")["frequency"].to_list()
    assert rows == pytest.approx([3 / 5, 0.0, 3 / 5])
    assert lens_frequencies(texts.head(0), features)["frequency"].to_list() == [None] * 3


def test_the_axis_ends_where_gains_can_be_read() -> None:
    row = dict.fromkeys(f"{gain}{end}" for gain in ("ratio", *CONTROLS) for end in ("", "_low", "_high"))
    few, wide = pl.DataFrame([row | {"ratio": 1.5, "ratio_high": 2.5}]), pl.DataFrame([row | {"ratio": 4.0, "ratio_high": 1e18}])
    assert (furthest(few), furthest(wide), furthest(pl.DataFrame([row | {"ratio": 1.5, "ratio_high": 9.0}]))) == (2.5, 6.0, 4.0)


# Bins of the score


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
