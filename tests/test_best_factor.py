"""The choice of a factor against a literal loop and examples worked by hand; and that a recommended factor is the same wherever it is
asked for."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.statistics import capped_factor, p1_factor
from report_folders import swept, write_step
from synthetic_tables import synthetic_features, synthetic_steering
from test_recommendation import ratings, recommended

from saesteer.analysis.best_factor import (
    BY_PERPLEXITY,
    BY_SUCCESS,
    Curve,
    best_factors,
    both_halves,
    choose_capped,
    choose_p1,
    first_largest,
    outcomes,
    recommended_factors,
)
from saesteer.analysis.tables import BEST_FACTORS, OUTCOMES, STEERING
from saesteer.core.errors import SettingsError
from saesteer.core.tables import validate
from saesteer.exchange.fits import recommended_factor
from saesteer.settings import BestFactorSettings
from saesteer.steps.judge import JUDGEMENTS

FACTORS, SIGNED = ("0", "0.4", "2", "6", "20"), ("-6", "-2", "0", "2", "6")


def curve(success: list[float], perplexity: list[float | None], factors: tuple[str, ...] = FACTORS) -> Curve:
    logs = [math.nan if p is None else math.log(p) for p in perplexity]
    return Curve(factors, np.array(success, dtype=np.float64), np.array(logs))


def test_by_hand() -> None:
    """Success 0 .5 1 2 9, perplexity 5 10 12 60 900.

    p1, limit 3: factor 20 is dropped; ratios are proportional to .5/10 = .05, 1/12 = .083, 2/60 = .033: factor 2.
    capped, 4 x 5 = 20: factors .4 and 2 are under the cap: factor 2. Cap 13 (65): factor 6. Cap 200 (1000): factor 20.
    """
    example = curve([0, 0.5, 1, 2, 9], [5, 10, 12, 60, 900])
    assert choose_p1(example, 3.0) == "2"
    assert [choose_capped(example, cap) for cap in (4.0, 13.0, 200.0)] == ["2", "6", "20"]
    assert first_largest(np.array([0.1, 0.3, 0.1 + 0.2])) == 1  # equal but for rounding


def test_cap_is_included_and_none_under_it_takes_the_lowest_perplexity() -> None:
    assert choose_capped(curve([0, 1, 2, 3, 4], [1, 2, 4, 8, 16]), 4.0) == "2"
    assert choose_capped(curve([0, 1, 2, 3, 4], [1, 9, 8, 50, 99]), 4.0) == "2"


PERPLEXITIES = st.one_of(st.none(), st.sampled_from([1.0, 2.0, 4.0, 8.0, 32.0]))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 3.0, 3.5, 8.0]), PERPLEXITIES), min_size=5, max_size=5),
    st.sampled_from([FACTORS, SIGNED]),
)
def test_choices_are_the_definitions(points: list[tuple[float, float | None]], factors: tuple[str, ...]) -> None:
    """A factor below 0 steers away: no rule chooses it."""
    success, perplexity = [s for s, _ in points], [p for _, p in points]
    numbers = [float(factor) for factor in factors]
    # A cap that is no power of 2: no product ties with a perplexity, where logarithm and product could round differently.
    example = curve(success, perplexity, factors)
    choices = choose_capped(example, 5.0), choose_p1(example, 3.0)
    expected = capped_factor(numbers, success, perplexity, 5.0), p1_factor(numbers, success, perplexity, 3.0)
    assert tuple(None if factor is None else float(factor) for factor in choices) == expected


def steering_rows(values: dict[tuple[str, int], dict[str, float | None]]) -> pl.DataFrame:
    """STEERING of layer 3, feature 7 from {(factor, half): columns}."""
    known = {"layer": 3, "feature": 7, "n": 10, "n_perplexity": 10, "n_concept": 10, "n_outside": 8, "n_fluency": 10, "n_judged": 10}
    known |= {"gen_success_1": 0.0, "gen_success_5": 0.0, "mean_perplexity": math.e, "whole_text_perplexity": math.e, "log_perplexity": 1.0}
    known |= {"concept_rating": 1.0, "concept_outside": 0.75, "fluency_rating": 2.0, "judge_score": 1.0}
    rows = [known | {"factor": factor, "half": half} | row for (factor, half), row in values.items()]
    return pl.DataFrame(rows, schema=STEERING.schema)


def test_each_half_reports_at_the_factor_chosen_on_the_other() -> None:
    """Half 0 is best at 6, half 1 at 2; so half 0 reports its value at 2 (0.3) and half 1 its value at 6 (0.4); their mean is .35."""
    steering = steering_rows(
        {
            ("0", 0): {"gen_success_20": 0.1, "concept_outside": 0.25},
            ("2", 0): {"gen_success_20": 0.3, "concept_outside": 1.0, "judge_score": 0.5, "log_perplexity": 1.5},
            ("6", 0): {"gen_success_20": 1.0},
            ("0", 1): {"gen_success_20": 0.5},
            ("2", 1): {"gen_success_20": 1.5},
            ("6", 1): {"gen_success_20": 0.4, "concept_outside": None, "judge_score": 0.7, "log_perplexity": 2.5},
        }
    )
    chosen = best_factors(steering, BestFactorSettings()).filter(rule="capped").sort("reported_on")
    assert chosen["factor"].to_list() == ["2", "6"]
    assert chosen["gen_success_20"].to_list() == [0.3, 0.4]
    assert chosen["net_gen_success_20"].to_list() == pytest.approx([0.3 - 0.1, 0.4 - 0.5])
    assert chosen["net_concept_outside"].to_list() == [1.0 - 0.25, None]
    assert chosen["at_grid_end"].to_list() == [True, True]
    features = synthetic_features(1, 1).with_columns(layer=pl.lit(3, pl.UInt16), feature=pl.lit(7, pl.UInt32))
    row = outcomes(chosen, features).row(0, named=True)
    assert row["gen_success_20"] == pytest.approx(0.35)
    assert row["net_gen_success_20"] == pytest.approx(0.05)
    assert row["judge_score"] == pytest.approx(0.6)
    assert row["log_perplexity"] == pytest.approx(2.0)
    assert (row["factors"], row["n_at_grid_end"]) == (["2", "6"], 2)


def test_failure_counts_as_zero_and_is_not_missing() -> None:
    """Half 0 has no success, so half 1 reports failure; half 1 chooses 2, where half 0 has 0: mean success 0, judge (0 + 1) / 2."""
    rows = {(factor, half): {"gen_success_20": float(factor == "2" and half == 1)} for factor in ("0", "2", "6") for half in (0, 1)}
    chosen = best_factors(steering_rows(rows), BestFactorSettings()).sort("rule", "reported_on")
    assert chosen["factor"].to_list() == ["2", None, "2", None]
    failed = chosen.filter(pl.col("factor").is_null()).row(0, named=True)
    assert (failed["gen_success_20"], failed["judge_score"], failed["log_perplexity"], failed["at_grid_end"]) == (0.0, 0.0, None, None)
    assert (failed["net_gen_success_20"], failed["net_concept_outside"]) == (0.0, -0.75)
    features = synthetic_features(1, 1).with_columns(layer=pl.lit(3, pl.UInt16), feature=pl.lit(7, pl.UInt32))
    row = outcomes(chosen, features).row(0, named=True)
    assert (row["gen_success_20"], row["judge_score"], row["log_perplexity"], row["factors"]) == (0.0, 0.5, 1.0, ["2", None])


def test_failure_of_a_feature_without_a_concept_has_no_judge_score() -> None:
    rows = {(f, h): {"gen_success_20": 0.0, "concept_rating": None, "judge_score": None} for f in ("0", "2") for h in (0, 1)}
    chosen = best_factors(steering_rows(rows), BestFactorSettings())
    assert chosen["judge_score"].null_count() == chosen.height == 4
    assert chosen["gen_success_20"].to_list() == [0.0] * 4


def test_same_texts_weights_the_halves_by_their_texts() -> None:
    """Success at 2: (0.3 x 10 + 1.5 x 30) / 40 = 1.2. Log perplexity: (1 x 10 + 2 x 5) / 15 = 4/3. One half without: the other's.
    Concept: (2 x 1 + 1 x 3) / 4 = 1.25. Fluency: (1 x 2 + 2 x 8) / 10 = 1.8."""
    steering = steering_rows(
        {
            ("0", 0): {"gen_success_20": 0.0, "log_perplexity": 1.0},
            ("0", 1): {"gen_success_20": 0.0, "log_perplexity": None, "n_perplexity": 0},
            ("2", 0): {"gen_success_20": 0.3, "log_perplexity": 1.0},
            ("2", 1): {"gen_success_20": 1.5, "n": 30, "log_perplexity": 2.0, "n_perplexity": 5},
        }
    )
    rated = steering_rows(
        {
            ("2", 0): {"n_concept": 1, "concept_rating": 2.0, "n_fluency": 2, "fluency_rating": 1.0},
            ("2", 1): {"n_concept": 3, "n_fluency": 8},
        }
    )
    assert both_halves(rated).select("concept_rating", "fluency_rating").row(0) == pytest.approx((1.25, 1.8))
    merged = both_halves(steering)
    assert merged["gen_success_20"].to_list() == pytest.approx([0.0, 1.2])
    assert merged["log_perplexity"].to_list() == pytest.approx([1.0, 4 / 3])
    chosen = best_factors(steering, BestFactorSettings(factor_choice="same_texts")).filter(rule="capped")
    assert chosen.select("reported_on", "factor").rows() == [("all", "2")]
    assert chosen["gen_success_20"].to_list() == pytest.approx([1.2])


@pytest.mark.parametrize(
    ("perplexity", "column", "factor"),
    [
        ("continuation", "whole_text_perplexity", "6"),
        ("whole_text", "whole_text_perplexity", "2"),
        ("continuation_arithmetic", "mean_perplexity", "2"),
    ],
)
def test_the_perplexity_that_choices_go_by(perplexity: str, column: str, factor: str) -> None:
    """By the column's own perplexity 6 is above the cap (4 x 5 = 20) and 2 has the larger ratio, 1.5/10 to 2/30; by another, which is the
    same everywhere, both rules take 6. Of halves with 10 and 30 texts the arithmetic mean at 2 is (8 x 10 + 12 x 30) / 40 = 11."""
    points = {"0": (0.0, 5.0), "2": (1.5, 10.0), "6": (2.0, 30.0)}
    rows: dict[tuple[str, int], dict[str, float | None]] = {
        (at, half): {"gen_success_20": success, column: mean} for at, (success, mean) in points.items() for half in (0, 1)
    }
    chosen = best_factors(steering_rows(rows), BestFactorSettings(perplexity=perplexity))
    assert chosen["factor"].to_list() == [factor] * 4
    assert set(chosen["log_perplexity"]) == {1.0}  # reported is the geometric mean of continuations
    rows["2", 0] |= {column: 8.0}
    rows["2", 1] |= {column: 12.0, "n": 30, "n_perplexity": 30}
    assert both_halves(steering_rows(rows)).filter(factor="2")[column].to_list() == [pytest.approx(11.0)]


def test_a_factor_missing_in_one_half_is_named() -> None:
    steering = synthetic_steering(synthetic_features(1, 2), ("0", "2"))
    with pytest.raises(ValueError, match=r"layer 0, feature \d+: both halves .* need the same factors"):
        best_factors(steering[:-1], BestFactorSettings())


@pytest.mark.parametrize("choice", ["held_out", "same_texts"])
def test_a_feature_depends_on_its_own_rows_only(choice: str) -> None:
    features = synthetic_features(2, 5)
    steering = synthetic_steering(features, FACTORS)
    settings_ = BestFactorSettings(factor_choice=choice)
    together = best_factors(steering.sample(fraction=1.0, shuffle=True, seed=1), settings_)
    alone = pl.concat([best_factors(part, settings_) for part in steering.partition_by("layer", "feature")])
    keys = list(BEST_FACTORS.keys)
    assert together.sort(keys).equals(alone.sort(keys))
    validate(BEST_FACTORS, together, "test")
    validate(OUTCOMES, outcomes(together, features), "test")


JUDGED = "judge score, on all prompts"


def chosen(values: dict[str, tuple[float | None, float, float]]) -> tuple[str | None, str]:
    """Of factor -> (judge score, GenSuccess@20, log perplexity), the same in both halves."""
    columns = ("judge_score", "gen_success_20", "log_perplexity")
    rows = {(factor, half): dict(zip(columns, row, strict=True)) for factor, row in values.items() for half in (0, 1)}
    ((layer, feature, factor, chosen_by),) = recommended_factors(steering_rows(rows), BestFactorSettings()).rows()
    assert (layer, feature) == (3, 7)
    return factor, chosen_by


def test_a_recommended_factor_by_hand() -> None:
    """The judge goes first; without one, factor 10 is above 4 times the unsteered perplexity (ln 4 = 1.39)."""
    judged = {"0": (1.9, 0.0, 1.0), "2": (0.5, 1.0, 1.1), "4": (1.5, 2.0, 2.0), "10": (1.5, 9.0, 5.0)}
    assert chosen(judged) == ("4", JUDGED)
    assert chosen({factor: (None, *row[1:]) for factor, row in judged.items()}) == ("4", BY_SUCCESS)
    assert chosen({"0": (None, 0.0, 1.0), "10": (None, 9.0, 5.0), "20": (None, 9.0, 4.0)}) == ("20", BY_PERPLEXITY)
    assert chosen({"0": (1.0, 0.0, 1.0), "2": (0.0, 1.0, 1.0)}) == (None, JUDGED)
    assert chosen({"0": (None, 1.0, 1.0), "2": (None, 0.0, 1.0)}) == (None, BY_SUCCESS)
    assert chosen({"0": (None, 1.0, 1.0), "2": (None, 0.0, 5.0)}) == (None, BY_SUCCESS)  # no success, not a high perplexity


def test_a_recommended_factor_is_chosen_on_both_halves_together() -> None:
    """One half is best at 2, the other at 6; together 4 is: 1.0 against 0.9 and 0.8."""
    scores = {"2": (1.6, 0.2), "4": (1.0, 1.0), "6": (0.0, 1.6)}
    rows = {(factor, half): {"judge_score": of[half], "gen_success_20": 1.0} for factor, of in scores.items() for half in (0, 1)}
    assert recommended_factors(steering_rows(rows), BestFactorSettings())["factor"].to_list() == ["4"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 4 / 3, 2.0]), min_size=8, max_size=8), min_size=3, max_size=3))
def test_a_recommended_factor_is_what_a_recommendation_says(scores: list[list[float]]) -> None:
    rated = pl.concat([ratings("feature", 3, "7", factor, list(of)) for factor, of in zip(("10", "2", "4"), scores, strict=True)])
    halves = rated.with_columns(half=pl.col("prefix_id").str.tail(1).cast(pl.Int64) % 2)
    means = halves.group_by("factor", "half").agg(pl.col("judge_score").mean()).iter_rows()
    rows = {(factor, half): {"judge_score": mean, "gen_success_20": 0.0} for factor, half, mean in means}
    choice = recommended(rated).feature
    assert choice is not None
    if max(map(max, scores)) > 0:
        assert recommended_factors(steering_rows(rows), BestFactorSettings())["factor"].to_list() == [choice.factor]


def test_a_command_says_why_there_is_none(tmp_path: Path) -> None:
    run = swept(tmp_path)
    (layer, feature, factor, chosen_by), *_ = recommended_factors(run.summary(STEERING), run.sweep.best_factor).rows()
    assert recommended_factor(run, layer, feature) == (float(factor), f"recommended: chosen by {chosen_by}")
    with pytest.raises(SettingsError, match="tiny has not steered with feature 0/999, so no factor is recommended: name one"):
        recommended_factor(run, 0, 999)
    sweep = run.sweep.model_copy(update={"sweep": run.sweep.sweep.model_copy(update={"edit": "projection"})})
    with pytest.raises(SettingsError, match="edits features by projection .sweep.edit. and recommends no factor of an addition"):
        recommended_factor(replace(run, experiment=sweep), layer, feature)


def test_candidates_of_a_recommendation_have_ratings_and_no_tables(tmp_path: Path) -> None:
    """Both give the same factor; of a feature that was not rated there is none."""
    run = swept(tmp_path)
    features = run.summary(STEERING).select("layer", "feature").unique().sort("layer", "feature").rows()
    scores = {"0": 1.5, "2": 0.5, "10": 1.0, "20": 1.0}
    rows = [
        (layer, "feature", str(feature), factor, prefix_id, 0, score)
        for layer, feature in features
        for factor, score in scores.items()
        for prefix_id in ("a", "b")
    ]
    rated = pl.DataFrame(rows, schema=[*JUDGEMENTS.keys, "judge_score"], orient="row")
    columns = [pl.lit(None, kind).alias(name) for name, kind in JUDGEMENTS.schema.items() if name not in rated.columns]
    shutil.rmtree(run.data / "judge")
    write_step(run.data, JUDGEMENTS, rated.with_columns(columns).select(*JUDGEMENTS.columns).cast(pl.Schema(JUDGEMENTS.schema)))
    run.summary_path(STEERING).unlink()
    layer, feature = features[0]
    assert recommended_factor(run, layer, feature) == (10.0, f"recommended: chosen by {JUDGED}")
    with pytest.raises(SettingsError, match="no factor is recommended"):
        recommended_factor(run, layer, 999)
