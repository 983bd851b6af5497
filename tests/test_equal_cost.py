"""Scores under a limit on damage: by hand, and against slow loops over texts."""

from statistics import fmean
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_rows import LAYER, PROMPTS, method_settings, method_summaries, rows_of, scored, synthetic_rows
from oracles.method_protocol import Text, concept_result
from scipy import stats
from test_method_protocol import DIFFMEAN, FOUR, METHODS, SETTINGS, UNSTEERED, comparisons

from saesteer.core.tables import validate
from saesteer.core.uncertainty import RATINGS, mean_interval
from saesteer.methods.compare.damage import LIMITS, choices_within, equal_cost, equal_cost_scores
from saesteer.methods.compare.paper_values import our_protocol
from saesteer.methods.compare.protocol import FIT, ProtocolError
from saesteer.methods.compare.tables import METHOD_EQUAL_COST, METHOD_EQUAL_COST_SCORES, METHODS_TABLE
from saesteer.settings.methods import MethodSettings
from saesteer.steps.damage import DAMAGE

Costs = dict[tuple[str, str, str], float | None]
"""(method, concept, factor) -> divergence."""


def damage_rows(costs: Costs) -> pl.DataFrame:
    rows = [(LAYER, *place, None if cost is None else 2.0 + cost, 2.0, cost, 9) for place, cost in costs.items()]
    return pl.DataFrame(rows, schema=DAMAGE.schema, orient="row")


def within_limits(
    damage: pl.DataFrame, halves: pl.DataFrame, choices: pl.DataFrame, methods: pl.DataFrame, settings: MethodSettings
) -> pl.DataFrame:
    scores = validate(METHOD_EQUAL_COST_SCORES, equal_cost_scores(damage, halves, choices, settings), "scores at equal cost")
    return equal_cost(scores, methods, settings)


def table_of(
    texts: list[Text], costs: Costs, settings: MethodSettings = SETTINGS, abstaining: tuple[tuple[str, str], ...] = ()
) -> pl.DataFrame:
    tables = scored(rows_of(texts, abstaining), FOUR, settings)
    keys = tables["method_scores"].group_by("layer", "method").agg(pl.col("score").mean()).to_dicts()
    ends = {"title": "a title", "family": "Vectors", "confidence": settings.confidence}
    methods = pl.DataFrame([dict.fromkeys(METHODS_TABLE.columns) | key | ends for key in keys], schema=METHODS_TABLE.schema)
    made = within_limits(damage_rows(costs), tables["method_halves"], tables["method_choices"], methods, settings)
    return validate(METHOD_EQUAL_COST, made, "equal cost")


def at(table: pl.DataFrame, limit: float, method: str = "diffmean") -> dict[str, float | None]:
    return table.row(by_predicate=(pl.col("limit") == limit) & (pl.col("method") == method), named=True)


def test_a_limit_leaves_out_the_best_factor_and_where_it_leaves_none_the_method_is_unsteered() -> None:
    """Of one concept: half 0 (p0, p2) has means 0, 2/3, 5/3 at .5, 1, 2, half 1 (p1, p3) 0, 5/3, 0; the unsteered halves 0 and 4/3.
    Without a limit, or up to .2 nats, half 0 chooses 2, at which half 1 has 0, and half 1 chooses 1, at which half 0 has 2/3. Up to .1,
    which factor 1 just keeps to, both choose it. Up to .05 there is no factor: (0 + 4/3) / 2."""
    costs: Costs = {("unsteered", "sea", "1"): 0.0}
    costs |= {("diffmean", "sea", factor): cost for factor, cost in {"0.5": 0.07, "1": 0.1, "2": 0.19}.items()}
    table = table_of(UNSTEERED + DIFFMEAN, costs)
    expected = {0.05: (2 / 3, 0.0, 1.0), 0.1: ((2 / 3 + 5 / 3) / 2, 0.1, 0.0)}
    expected |= dict.fromkeys((0.2, 0.5), (1 / 3, (0.1 + 0.19) / 2, 0.0))
    for limit, values in expected.items():
        row = at(table, limit)
        assert (row["score"], row["divergence"], row["share_unsteered"]) == pytest.approx(values), limit
        assert (row["unlimited_score"], row["n_concepts"], row["n"]) == (pytest.approx(1 / 3), 1, 1)
        assert (at(table, limit, "unsteered")["score"], at(table, limit, "unsteered")["divergence"]) == (pytest.approx(2 / 3), 0.0)


def test_what_was_not_finite_is_within_no_limit_and_what_was_not_measured_is_refused() -> None:
    costs: Costs = {("unsteered", "sea", "1"): 0.0} | {("diffmean", "sea", factor): None for factor in ("0.5", "1", "2")}
    assert at(table_of(UNSTEERED + DIFFMEAN, costs), 0.5)["share_unsteered"] == 1
    del costs["diffmean", "sea", "2"]
    with pytest.raises(ProtocolError, match="table damage has no row of .*'diffmean'.*'factor': '2'"):
        table_of(UNSTEERED + DIFFMEAN, costs)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(comparisons(), st.sampled_from(("held_out", "first_half", "same_texts")), st.data())
def test_it_is_what_slow_loops_say_of_the_texts_within_the_limit(
    drawn: tuple[list[Text], list[tuple[str, str]], bool], choice: str, data: st.DataObject
) -> None:
    """The oracle sees the texts at the factors within the limit, and no others: of a method without such texts it takes the unsteered."""
    texts, abstaining, _ = drawn
    one_cost = st.sampled_from((0.01, 0.05, 0.08, 0.1, 0.3, 0.7, None))
    costs: Costs = {place: 0.0 if place[0] == "unsteered" else data.draw(one_cost) for place in dict.fromkeys(text[:3] for text in texts)}
    costs |= {(*fit, "1"): None for fit in abstaining}
    wanted = SETTINGS.model_copy(update={"factor_choice": choice})
    table = table_of(texts, costs, wanted, tuple(abstaining))
    assert table.height == len(METHODS) * len(LIMITS)
    for row in table.iter_rows(named=True):
        within = [text for text in texts if (cost := costs[text[:3]]) is not None and cost <= row["limit"]]
        results = [concept_result(within, row["method"], of, FOUR, choice, "harmonic_mean", "unsteered") for of in ("sea", "weather")]
        scores = [result["score"] for result in results if result["score"] is not None]
        assert row["score"] == (pytest.approx(fmean(scores)) if scores else None)
        assert (row["n"], row["share_unsteered"]) == (len(scores), sum(result["abstains"] for result in results) / 2)
        spent = [_spent(result, row["method"], of, costs) for of, result in zip(("sea", "weather"), results, strict=True)]
        known = [cost for cost in spent if cost is not None]
        assert row["divergence"] == (pytest.approx(fmean(known)) if known else None)


def _spent(result: dict[str, Any], method: str, concept: str, costs: Costs) -> float | None:
    if result["abstains"]:
        return 0.0
    spent = [cost for factor in result["factors"] if factor is not None and (cost := costs[method, concept, factor]) is not None]
    return fmean(spent) if spent else None


def test_intervals_are_those_of_the_table_of_methods_and_orders_are_compared_by_rank() -> None:
    wanted = method_settings(methods=("unsteered", "diffmean", "sae_label", "prompting", "lora"))
    tables = method_summaries(synthetic_rows(wanted), PROMPTS, wanted, {LAYER: our_protocol(wanted, "model", LAYER, "judge", 6)})
    halves, choices, methods = tables["method_halves"], tables["method_choices"], tables["methods"]
    places = halves.select(*FIT, "factor").unique(maintain_order=True)
    factor = pl.when(pl.col("method") == "unsteered").then(0.0).otherwise(pl.col("factor").cast(pl.Float64))
    damage = places.with_columns(loss=pl.lit(2.0), unsteered_loss=pl.lit(2.0), divergence=factor / 8, n_tokens=pl.lit(9, pl.UInt32))
    table = within_limits(damage, halves, choices, methods, wanted)
    assert table.equals(
        within_limits(*(rows.sample(fraction=1, shuffle=True, seed=1) for rows in (damage, halves, choices, methods)), wanted)
    )
    for limit in LIMITS:
        of_limit = table.filter(limit=limit)
        rho = stats.spearmanr(of_limit["score"], of_limit["unlimited_score"]).statistic
        assert of_limit["rank_correlation"].unique().to_list() == [pytest.approx(rho)]
        chosen = choices_within(limit, damage, halves, choices.select(FIT).unique(), wanted.factor_choice)
        for row in of_limit.iter_rows(named=True):
            concepts = chosen.filter(method=row["method"]).group_by("concept_id").agg(pl.col("score").mean())["score"].drop_nulls().sort()
            assert (row["score_low"], row["score_high"]) == mean_interval(concepts.to_numpy(), wanted.confidence, RATINGS)
    everything = within_limits(damage.with_columns(divergence=pl.lit(0.0)), halves, choices, methods, wanted)
    columns = ["score", "score_low", "score_high"]
    assert everything.select(columns).equals(everything.select(**{name: f"unlimited_{name}" for name in columns}))
    assert set(everything["rank_correlation"]) == {1.0}
