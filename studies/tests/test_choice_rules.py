"""Rules that pick a concept's feature: against loops in plain Python, SciPy's Mann-Whitney U, and a case by hand."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_tables import main_tables, selection_settings

from saesteer.core.tables import validate
from studies.questions.choice_rules import (
    BEST,
    BY_JUDGE,
    COMMON,
    RANDOM,
    RULES,
    SCALED,
    area_interval,
    area_under_roc,
    choice_rules,
    chosen_by_judge,
    feature_rankings,
)
from studies.questions.tables import CHOICE_RULES, FEATURE_RANKINGS

SETTINGS = selection_settings()
FEATURE = ["layer", "feature"]


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    return main_tables(n_layers=2, n_features=60)


def held_out(steering: pl.DataFrame) -> dict[tuple[int, int], list[tuple[float, float]]]:
    """(layer, feature) -> (largest score on the other half, score here) of halves 0 and 1, in loops."""
    by_key = {(row["layer"], row["feature"], row["factor"], row["half"]): row["judge_score"] for row in steering.iter_rows(named=True)}
    made = {}
    for layer, feature in sorted({key[:2] for key, score in by_key.items() if score is not None}):
        factors = sorted({key[2] for key in by_key if key[:2] == (layer, feature) and float(key[2]) > 0}, key=float)
        made[layer, feature] = []
        for half in (0, 1):
            best = max(factors, key=lambda factor: by_key[layer, feature, factor, 1 - half])  # the first of equals
            made[layer, feature].append((by_key[layer, feature, best, 1 - half], by_key[layer, feature, best, half]))
    return made


def test_rules_pick_as_loops_do(tables: dict[str, pl.DataFrame]) -> None:
    features, steering, outcomes = (tables[name] for name in ("features", "steering", "outcomes"))
    made = choice_rules(features, steering, outcomes, SETTINGS)
    validate(CHOICE_RULES, made, "made")
    scores = held_out(steering)
    by_judge = {key: sum(here for _, here in halves) / 2 for key, halves in scores.items()}
    p1 = {(row["layer"], row["feature"]): row["judge_score"] for row in outcomes.filter(rule="p1").iter_rows(named=True)}
    rows = {(row["layer"], row["feature"]): row for row in features.iter_rows(named=True)}
    for layer in (0, 1):
        candidates: dict[str, list[int]] = {}
        for number, feature in sorted(scores):
            if number == layer:
                candidates.setdefault(rows[layer, feature]["concept"], []).append(feature)
        several = [own for own in candidates.values() if len(own) > 1]
        for rule in RULES:
            picks = [max(own, key=lambda one: (rows[layer, one][rule] or -math.inf, -one)) for own in several]
            for name, score in ((BY_JUDGE, by_judge), ("p1", p1)):
                line = made.row(
                    by_predicate=(pl.col("layer") == layer) & (pl.col("rule") == rule) & (pl.col("factor_rule") == name), named=True
                )
                assert line["n"] == line["n_concepts"] == len(several)
                assert line["score"] == pytest.approx(np.mean([score[layer, pick] for pick in picks]))
        mean = np.mean([np.mean([by_judge[layer, one] for one in own]) for own in several])
        best = []
        for own in several:
            first = [max(own, key=lambda one: (scores[layer, one][half][0], -one)) for half in (0, 1)]
            best.append(np.mean([scores[layer, one][half][1] for half, one in enumerate(first)]))
        lines = {row["rule"]: row for row in made.filter(layer=layer, factor_rule=BY_JUDGE).iter_rows(named=True)}
        assert lines[RANDOM]["score"] == pytest.approx(mean)
        assert [lines[RANDOM][f"above_random{end}"] for end in ("", "_low", "_high")] == [None] * 3
        assert lines[BEST]["score"] == pytest.approx(np.mean(best))
        assert lines[BEST]["share_of_best"] == 1
        assert lines["density"]["above_random"] == pytest.approx(lines["density"]["score"] - mean)
        assert lines["density"]["share_of_best"] == pytest.approx(lines["density"]["score"] / np.mean(best))
    assert BEST not in made.filter(factor_rule="p1")["rule"]


def test_by_hand() -> None:
    """Two features of one concept, three factors. Feature 1: half 0 likes factor 2, half 1 factor 1. Factor 0 is no steering."""
    scores = {
        (1, "0"): (2.0, 2.0), (1, "1"): (0.4, 1.0), (1, "2"): (0.6, 0.2),
        (2, "0"): (2.0, 2.0), (2, "1"): (0.5, 0.5), (2, "2"): (0.1, 0.3),
    }  # fmt: skip
    rows = [(3, feature, factor, half, score[half]) for (feature, factor), score in scores.items() for half in (0, 1)]
    steering = pl.DataFrame(rows, schema=["layer", "feature", "factor", "half", "judge_score"], orient="row")
    judge = chosen_by_judge(steering).drop("strength").rows()
    assert judge == [(3, 1, 0, 1.0, 0.4), (3, 1, 1, 0.6, 0.2), (3, 2, 0, 0.5, 0.5), (3, 2, 1, 0.5, 0.5)]
    assert chosen_by_judge(steering)["strength"].to_list() == [1.0, 2.0, 1.0, 1.0]
    quantities = (
        {name: [9.0, 1.0] for name in RULES}
        | {"a_max": [4.0, 4.0], "max_activation": [8.0, 4.0]}
        | {"density": [0.1, 0.2], "input_score": [None, 0.0]}
    )
    features = pl.DataFrame({"layer": [3, 3], "feature": [1, 2], "concept": ["sea", "sea"], **quantities})
    outcomes = pl.DataFrame({"layer": [3, 3], "feature": [1, 2], "rule": ["p1", "p1"], "judge_score": [0.0, 1.5]})
    made = choice_rules(features, steering, outcomes, SETTINGS)
    judged = {row["rule"]: row["score"] for row in made.filter(factor_rule=BY_JUDGE).iter_rows(named=True)}
    # The best: half 1 puts feature 1 first (1.0 against 0.5), which gets 0.4 on half 0; half 0 puts it first (0.6), 0.2 on half 1.
    assert judged == pytest.approx({BEST: 0.3, RANDOM: 0.4, **dict.fromkeys(RULES, 0.3), "density": 0.5, "input_score": 0.5})
    assert made.filter(factor_rule="p1", rule="density")["score"].to_list() == [1.5]
    assert made["score_low"].null_count() == made.height  # one concept has no interval
    # One factor for both: half 1 does best at 1 (1.0 + .5), half 0 at 1 (.4 + .5). One multiple of the max-activating examples, 8 and 4
    # with an a_max of 4: half of them is factors 1 and, the nearest, 1; all of them 2 and 1, which half 0 likes best (.6 + .5) and half 1
    # does not.
    both = {row["factor_rule"]: row["score"] for row in made.filter(rule="density").iter_rows(named=True)}
    assert both[COMMON] == 0.5
    assert made.filter(rule="output_score", factor_rule=COMMON)["score"].to_list() == pytest.approx([(0.4 + 1.0) / 2])
    assert made.filter(rule="output_score", factor_rule=SCALED)["score"].to_list() == pytest.approx([(0.4 + 0.2) / 2])


def test_a_quantity_that_no_candidate_has_picks_nothing(tables: dict[str, pl.DataFrame]) -> None:
    features = tables["features"].with_columns(input_score=pl.lit(None, pl.Float64))
    made = choice_rules(features, tables["steering"], tables["outcomes"], SETTINGS).filter(rule="input_score")
    assert made["n"].to_list() == [0] * made.height
    assert made["score"].null_count() == made.height


def test_rankings_are_scipys(tables: dict[str, pl.DataFrame]) -> None:
    features, steering = (tables[name] for name in ("features", "steering"))
    made = feature_rankings(features, steering, SETTINGS)
    validate(FEATURE_RANKINGS, made, "made")
    score = {key: sum(here for _, here in halves) / 2 for key, halves in held_out(steering).items()}
    for row in made.filter(rule="output_score").iter_rows(named=True):
        own = features.filter(layer=row["layer"]).filter(
            pl.col("feature").is_in([feature for layer, feature in score if layer == row["layer"]])
        )
        quantity, judged = own["output_score"].to_numpy(), np.array([score[row["layer"], feature] for feature in own["feature"]])
        assert row["n_steers"] == (judged >= 1).sum()
        assert row["precision_10"] == np.mean([judged[place] >= 1 for place in sorted(range(len(judged)), key=lambda i: -quantity[i])[:10]])
        assert row["area_low"] <= row["area"] <= row["area_high"]
    uninformed = made.filter(rule="density")
    assert (uninformed["area_low"] < uninformed["area_high"]).all()
    assert uninformed["area"].is_between(0.2, 0.8).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_area_is_mann_whitneys_u(pairs: list[tuple[int, bool]]) -> None:
    quantity, steers = np.array([float(q) for q, _ in pairs]), np.array([s for _, s in pairs])
    made = area_under_roc(quantity, steers)
    if steers.all() or not steers.any():
        assert made is None
        return
    u = stats.mannwhitneyu(quantity[steers], quantity[~steers]).statistic
    assert made == pytest.approx(u / (steers.sum() * (~steers).sum()))


def test_the_order_of_rows_does_not_matter(tables: dict[str, pl.DataFrame]) -> None:
    given_ = [tables[name] for name in ("features", "steering", "outcomes")]
    mixed = [table.sample(fraction=1.0, shuffle=True, seed=7) for table in given_]
    assert choice_rules(*mixed, SETTINGS).equals(choice_rules(*given_, SETTINGS))
    assert feature_rankings(*mixed[:2], SETTINGS).equals(feature_rankings(*given_[:2], SETTINGS))
    assert choice_rules(*(table.clear() for table in given_), SETTINGS).is_empty()


def test_the_areas_standard_error_is_delongs_or_hanleys() -> None:
    """By the definitions, one pair after another: of scattered quantities DeLong's is the larger, of ordered ones Hanley and McNeil's."""
    rng = np.random.default_rng(3)
    steers = np.arange(30) < 12
    scattered, ordered = np.where(steers, rng.choice([-9, 9], 30), rng.random(30)), rng.normal(0, 0.5, 30) + steers
    for quantity, is_scattered in ((scattered, True), (ordered, False)):
        pairs = np.array([[float(a > b) for b in quantity[~steers]] for a in quantity[steers]])
        area, parts = pairs.mean(), (pairs.mean(1).var(ddof=1) / 12, pairs.mean(0).var(ddof=1) / 18)
        first, second = area / (2 - area), 2 * area**2 / (1 + area)
        hanley = (area * (1 - area) + 11 * (first - area**2) + 17 * (second - area**2)) / (12 * 18)
        assert (sum(parts) > hanley) == is_scattered
        df = sum(parts) ** 2 / (parts[0] ** 2 / 11 + parts[1] ** 2 / 17)
        reach = stats.t.ppf(0.975, df) * max(sum(parts), hanley) ** 0.5 / (area * (1 - area))
        logit = np.log(area / (1 - area))
        expected = [1 / (1 + np.exp(-(logit + side * reach))) for side in (-1, 1)]
        assert area_interval(quantity, steers, 0.95) == pytest.approx(expected)
    assert area_interval(quantity, np.arange(30) < 1, 0.95) is None


@pytest.mark.parametrize(("shift", "share", "n"), [(1.0, 0.3, 16), (2.0, 0.2, 34), (0.0, 0.5, 34), (1.0, 0.1, 120)])
def test_intervals_of_areas_cover(shift: float, share: float, n: int) -> None:
    rng = np.random.default_rng(n)
    true = stats.norm.cdf(shift / 2**0.5)
    held = []
    for _ in range(600):
        steers = rng.random(n) < share
        interval = area_interval(np.exp(rng.normal(0, 1, n) + shift * steers), steers, 0.95)
        held += [] if interval is None else [interval.low <= true <= interval.high]
    assert np.mean(held) > 0.94 - 0.019  # two standard errors
