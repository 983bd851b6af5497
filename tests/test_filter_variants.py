"""The variants of the filter's gain against plain means, and the control by frequency against its own strata."""

from collections.abc import Callable
from itertools import product

import numpy as np
import polars as pl
import pytest
from synthetic_tables import main_tables, selection_settings

from saesteer.analysis.best_factor import best_factors, outcomes
from saesteer.analysis.filter_variants import BINS, CONTROLS, SUCCESSES, filter_variants, lens_frequencies
from saesteer.analysis.tables import FILTER_VARIANTS, STEERING
from saesteer.core.tables import validate
from saesteer.figures.filter_variants import furthest
from saesteer.settings import BestFactorSettings

SETTINGS = selection_settings(permutations=200)
CHOICE = BestFactorSettings()
Sizes = dict[tuple[int, int], float]
"""By layer and feature."""


@pytest.fixture(scope="module")
def world() -> dict[str, pl.DataFrame]:
    return with_densities(main_tables(n_layers=4, n_features=24))


def with_densities(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """No two features of a layer are as dense."""
    return tables | {"features": tables["features"].with_columns(density=(pl.int_range(pl.len()) * 41 % 89 + 1) / 100)}


def frequencies_of(features: pl.DataFrame) -> pl.DataFrame:
    """Of 97 different sizes, so that no two features of a layer are alike."""
    return features.select("layer", "feature", frequency=pl.int_range(pl.len()) * 37 % 97 / 97)


@pytest.fixture(scope="module")
def variants(world: dict[str, pl.DataFrame]) -> pl.DataFrame:
    features = world["features"]
    rows = filter_variants(world["steering"], features, frequencies_of(features), CHOICE, SETTINGS)
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
        rows = outcomes(best_factors(world["steering"], choice), features).filter(rule="p1").drop_nulls(success).to_dicts()
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
    features = main_tables(2, 8)["features"].with_columns(is_common=pl.int_range(pl.len()).over("layer") < 2)
    rows = []
    for (layer, feature, is_common), half, factor in product(features.select("layer", "feature", "is_common").rows(), (0, 1), ("0", "1")):
        success = (2.0 if is_common else 1.0) + (factor == "1")
        row = {"layer": layer, "feature": feature, "factor": factor, "half": half, "n": 10, "n_perplexity": 10, "n_judged": 0}
        rows.append(row | dict.fromkeys(("gen_success_1", "gen_success_5", "gen_success_20"), success) | {"log_perplexity": 1.0})
    steering = pl.DataFrame(rows, schema=STEERING.schema)
    features = features.with_columns(output_score=pl.when("is_common").then(0.9).otherwise(0.1)).drop("is_common")
    frequencies = features.select("layer", "feature", frequency=pl.int_range(pl.len()).over("layer").cast(pl.Float64))
    of_all = filter_variants(steering, features, frequencies, CHOICE, SETTINGS).filter(
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
    row = filter_variants(world["steering"], features, frequencies_of(features), CHOICE, SETTINGS).row(0, named=True)
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
