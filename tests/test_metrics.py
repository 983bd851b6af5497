"""The headline numbers, each against a plain computation, and the table written from them."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from drawn_figures import FEW_DRAWS, sweep
from scipy.stats import spearmanr
from synthetic_tables import main_tables, selection_settings
from workflow_folder import ROOT

from saesteer.analysis.metrics import _depth, _variants, findings, headline
from saesteer.settings import BestFactorSettings, load_experiment
from saesteer.site.headline import depth_rho, headline_markdown, times
from saesteer.site.paper import paper_markdown
from saesteer.summaries.summary import summary_tables

SETTINGS = selection_settings(**FEW_DRAWS)


@pytest.fixture(scope="module")
def world() -> dict[str, pl.DataFrame]:
    return sweep()


def numbers_of(world: dict[str, pl.DataFrame]) -> dict[str, Any]:
    tables = [world[name] for name in ("features", "best_factors", "outcomes", "selection", "filter_variants")]
    return headline(*tables, BestFactorSettings(), SETTINGS)


@pytest.fixture(scope="module")
def numbers(world: dict[str, pl.DataFrame]) -> dict[str, Any]:
    return numbers_of(world)


def test_counts_and_medians(world: dict[str, pl.DataFrame], numbers: dict[str, Any]) -> None:
    rows = world["features"].to_dicts()
    assert numbers["features"]["n"] == 240
    assert numbers["features"]["n_without_input_score"] == sum(row["input_score"] is None for row in rows)
    assert numbers["features"]["share_with_concept"] == pytest.approx(sum(row["concept"] is not None for row in rows) / 240)
    medians = [np.median([row["output_score"] for row in rows if row["layer"] == layer]) for layer in range(8)]
    assert [layer["median_output_score"] for layer in numbers["layers"]] == pytest.approx(medians)
    assert numbers["depth"]["rho_output_score"] == pytest.approx(spearmanr(range(8), medians).statistic)
    scored = [row for row in rows if row["input_score"] is not None]
    both = [row for row in scored if row["input_score"] > 0.5 and row["output_score"] > 0.5]
    measured = numbers["both_above_half"]
    assert (measured["n"], measured["n_scored"], measured["share"]) == (len(both), len(scored), pytest.approx(len(both) / len(scored)))
    expected = 0.0
    for layer in range(8):
        of_layer = [row for row in scored if row["layer"] == layer]
        high = [sum(row[f"{score}_score"] > 0.5 for row in of_layer) for score in ("input", "output")]
        expected += high[0] * high[1] / len(of_layer)
    assert measured["to_independence"]["value"] == pytest.approx(len(both) / expected)


def test_filter_and_judge(world: dict[str, pl.DataFrame], numbers: dict[str, Any]) -> None:
    rows = world["outcomes"].filter(rule="capped").to_dicts()
    kept = [row["gen_success_20"] for row in rows if row["output_score"] >= 0.3]
    filtered = numbers["filter"]["capped"]["all"]
    assert filtered["kept"]["n"] == len(kept)
    assert filtered["ratio"]["value"] == pytest.approx(np.mean(kept) / np.mean([row["gen_success_20"] for row in rows]))
    judged = [row for row in rows if row["judge_score"] is not None]
    difference = np.mean([row["judge_score"] for row in judged if row["output_score"] >= 0.3]) - np.mean(
        [row["judge_score"] for row in judged if row["output_score"] < 0.3]
    )
    against = numbers["kept_against_removed"]["judge_score"]
    assert against["difference"] == pytest.approx(difference)
    assert against["low"] < against["difference"] < against["high"]
    assert against["n_missing"] == 240 - len(judged)


@pytest.mark.parametrize("measure", ["judge_score", "fluency_rating"])
def test_only_features_of_one_concept_and_layer_are_compared_within(
    world: dict[str, pl.DataFrame], numbers: dict[str, Any], measure: str
) -> None:
    """Features without a concept, which have a fluency rating, are not as if theirs were one."""
    rows = [row for row in world["outcomes"].iter_rows(named=True) if row["rule"] == "capped" and row[measure] is not None]
    cells: dict[tuple[int, str], tuple[list[float], list[float]]] = {}
    for row in rows:
        if row["concept"] is not None:
            cells.setdefault((row["layer"], row["concept"]), ([], []))[row["output_score"] >= 0.3].append(row[measure])
    both = [
        (len(kept) * len(removed) / (len(kept) + len(removed)), np.mean(kept) - np.mean(removed))
        for removed, kept in cells.values()
        if kept and removed
    ]
    within = sum(weight * gain for weight, gain in both) / sum(weight for weight, _ in both)
    assert numbers["kept_against_removed"][measure]["within"]["difference"] == pytest.approx(within)


def test_correlations_and_rules(world: dict[str, pl.DataFrame], numbers: dict[str, Any]) -> None:
    rows = world["outcomes"].filter(rule="capped")
    expected = spearmanr(rows["output_score"], rows["gen_success_20"]).statistic
    assert numbers["correlations"]["gen_success_20"]["overall"]["rho"] == pytest.approx(expected)
    means = [world["outcomes"].filter(rule=rule)["gen_success_20"].mean() for rule in ("capped", "p1")]
    assert numbers["capped_minus_p1"]["mean"] == pytest.approx(means[0] - means[1])


def test_net_gains_are_those_of_the_settings(world: dict[str, pl.DataFrame], numbers: dict[str, Any]) -> None:
    for rule in ("capped", "p1"):
        rows = world["outcomes"].filter(rule=rule).to_dicts()
        kept = [row["net_gen_success_20"] for row in rows if row["output_score"] >= 0.3]
        net = numbers["filter"][rule]["all"]["net"]
        assert net["ratio"]["value"] == pytest.approx(np.mean(kept) / np.mean([row["net_gen_success_20"] for row in rows]))
        assert f"{net['ratio']['value']:.2f}× [" in headline_markdown(numbers)
    assert (numbers["variants"]["n"], numbers["outside"]["variants"]["n"]) == (12, 12)
    rated = world["outcomes"].filter(rule="capped").drop_nulls("net_concept_outside")
    kept = rated.filter(pl.col("output_score") >= 0.3)["net_concept_outside"].mean()
    assert numbers["outside"]["capped"]["ratio"]["value"] == pytest.approx(kept / rated["net_concept_outside"].mean())
    assert numbers["outside"]["capped"]["n_features"] == rated.height < 240
    unsteered = {row["feature_of"]: row["gen_success_20"] for row in _unsteered_rows(world)}
    kept = [value for (_, _, score), value in unsteered.items() if score >= 0.3]
    assert numbers["unsteered"]["ratio"]["value"] == pytest.approx(np.mean(kept) / np.mean(list(unsteered.values())))


def _unsteered_rows(world: dict[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """Each feature's success at factor 0, the mean of both halves."""
    of_feature = world["steering"].filter(factor="0").group_by("layer", "feature").agg(pl.col("gen_success_20").mean())
    rows = of_feature.join(world["features"].select("layer", "feature", "output_score"), on=["layer", "feature"]).to_dicts()
    return [row | {"feature_of": (row["layer"], row["feature"], row["output_score"])} for row in rows]


def test_no_table_and_no_number_depends_on_the_order_of_rows(world: dict[str, pl.DataFrame], numbers: dict[str, Any]) -> None:
    """Nor the page that sets them beside the paper's; and the numbers are JSON."""
    in_another_order = main_tables(order=lambda rows: rows.sample(fraction=1.0, shuffle=True, seed=5), **FEW_DRAWS)
    for name, table in world.items():
        keys = summary_tables()[name].keys
        assert in_another_order[name].sort(keys).equals(table.sort(keys)), name
    assert json.dumps(numbers_of(in_another_order), allow_nan=False) == json.dumps(numbers, allow_nan=False)
    sweep = load_experiment("gemma-2-2b", ROOT / "config/experiments").model_copy(update={"selection": SETTINGS})
    first, again = ([tables[name] for name in ("features", "outcomes", "selection")] for tables in (world, in_another_order))
    assert paper_markdown("gemma-2-2b", sweep, *first) == paper_markdown("gemma-2-2b", sweep, *again)


def passing() -> dict[str, Any]:
    return {
        "depth": {"n_layers": 6, "rho_input_score": -0.9, "p_input_score": 0.01, "rho_output_score": 0.9, "p_output_score": 0.04},
        "both_above_half": {"to_independence": {"low": 0.2, "high": 0.9}},
        "variants": {"n": 12, "n_showing": 7, "n_excluding": 0, "registered": "holds"},
        "outside": {"variants": {"n": 12, "n_showing": 7, "n_excluding": 0, "registered": "holds"}},
    }


@pytest.mark.parametrize(
    ("path", "value", "finding", "word"),
    [
        (("depth", "rho_input_score"), 0.0, "roles_change_with_depth", "open"),
        (("depth", "rho_input_score"), 0.1, "roles_change_with_depth", "does not hold"),
        (("depth", "rho_output_score"), -0.1, "roles_change_with_depth", "does not hold"),
        (("depth", "rho_output_score"), None, "roles_change_with_depth", "open"),
        (("depth", "p_output_score"), 0.05, "roles_change_with_depth", "open"),
        (("depth", "p_input_score"), 0.2, "roles_change_with_depth", "open"),
        (("depth", "n_layers"), 5, "roles_change_with_depth", "open"),
        (("both_above_half", "to_independence", "high"), 1.0, "both_scores_high_is_rare", "open"),
        (("both_above_half", "to_independence"), {"low": 1.1, "high": 2.0}, "both_scores_high_is_rare", "does not hold"),
        (("both_above_half", "to_independence"), {"low": None, "high": None}, "both_scores_high_is_rare", "open"),
        (("variants", "n_showing"), 6, "filter_helps", "open"),
        (("variants", "registered"), "open", "filter_helps", "open"),
        (("outside", "variants", "registered"), "open", "filter_helps_without_lens_tokens", "open"),
        (("variants", "registered"), "does not hold", "filter_helps", "does not hold"),
    ],
)
def test_each_condition_of_a_finding_can_fail(path: tuple[str, ...], value: Any, finding: str, word: str) -> None:
    numbers = passing()
    assert set(findings(numbers).values()) == {"holds"}
    place = numbers
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert {name: said for name, said in findings(numbers).items() if said != "holds"} == {finding: word}


@pytest.mark.parametrize(
    ("ratio", "high", "within", "p_value", "n_kept", "counts", "word"),
    [
        (1.5, 2.0, 1.2, 0.049, 10, (1, 0), "holds"),
        (1.5, 2.0, 1.2, 0.049, 9, (1, 0), "open"),
        (1.49, 2.0, 1.2, 0.01, 10, (0, 0), "open"),
        (1.6, 2.0, 1.2, 0.05, 10, (0, 0), "open"),
        (1.6, 2.0, 0.8, 0.001, 10, (0, 0), "open"),  # it keeps good layers, and of each the worse features
        (1.2, 1.49, 1.1, 0.01, 10, (0, 1), "does not hold"),
        (1.2, 1.49, 1.1, 0.01, 9, (0, 1), "open"),
        (None, None, None, None, 10, (0, 0), "open"),
    ],
)
def test_a_variant_shows_a_gain_or_excludes_it(
    ratio: float | None,
    high: float | None,
    within: float | None,
    p_value: float | None,
    n_kept: int,
    counts: tuple[int, int],
    word: str,
) -> None:
    gains = {"ratio": ratio, "ratio_high": high, "within_layers": within, "p_within_layers": p_value}
    row = {"is_registered": True, "n_kept": n_kept} | gains
    schema = {"is_registered": pl.Boolean, "n_kept": pl.Int64} | dict.fromkeys(gains, pl.Float64)
    counted = _variants(pl.DataFrame([row], schema=schema))
    assert counted == {"n": 1, "n_showing": counts[0], "n_excluding": counts[1], "registered": word}


def test_markdown_has_the_numbers(numbers: dict[str, Any]) -> None:
    table = headline_markdown(numbers)
    lines = table.splitlines()
    assert all(line.count("|") == 4 for line in lines)
    kept = numbers["filter"]["p1"]["all"]
    assert f"{kept['unfiltered']['mean']:.2f} [{kept['unfiltered']['low']:.2f}, {kept['unfiltered']['high']:.2f}] (n = 240)" in table
    for name in ("ratio", "mix", "within"):
        assert f"{kept[name]['value']:.2f}× [{kept[name]['low']:.2f}, {kept[name]['high']:.2f}]" in table
    assert table.endswith("|\n")
    assert "Held-out GenSuccess@20" in table
    in_sample = headline_markdown(numbers, "same_texts")
    assert "In-sample GenSuccess@20" in in_sample
    assert "eld-out" not in in_sample


def test_a_world_too_small_for_most_numbers() -> None:
    world = main_tables(1, 2, ("0", "2"), late_layers_from=5)
    world["features"] = world["features"].with_columns(input_score=pl.lit(None, pl.Float64), concept=pl.lit(None, pl.String))
    judged = ["judge_score", "concept_rating"]
    world["outcomes"] = world["outcomes"].with_columns(pl.lit(None, pl.Float64).alias(name) for name in judged)
    numbers = numbers_of(world)
    json.dumps(numbers, allow_nan=False)
    assert numbers["depth"]["rho_input_score"] is None
    assert numbers["correlations"]["judge_score"]["overall"]["n"] == 0
    assert set(numbers["findings"].values()) == {"open"}
    table = headline_markdown(numbers)
    assert "–" in table
    assert all(f"| not testable: {why} |" in table for why in ("0 layers with both scores", "only 0 kept"))
    assert "| no feature is kept | not testable: only 0 kept |" in table
    assert "| none expected if the scores were independent within layers: " in table
    one = numbers | {"features": numbers["features"] | {"n_without_input_score": 1}}
    assert "(1 more has no input score)" in headline_markdown(one)


@pytest.mark.parametrize(
    ("outputs", "p_outputs"),
    [([1, 2], 1.0), ([1, 3, 2, 5, 4], 16 / 120), ([1, 2, 3, 5, 4, 6], 12 / 720), ([1, 2, 3, 4, 5, 6, 7, 8], 2 / 40320)],
)
def test_a_correlation_with_depth_comes_with_its_p(outputs: list[float], p_outputs: float) -> None:
    """By hand: of the orders of 6 layers 12 are at least as far from none as one swap of neighbours; two layers show nothing."""
    rows = [(layer, layer, 1.0 - layer / 10, value / 10) for layer, value in enumerate(outputs)]
    depth = _depth(pl.DataFrame(rows, schema=["layer", "feature", "input_score", "output_score"], orient="row"))
    assert depth["p_output_score"] == pytest.approx(p_outputs)
    assert depth["rho_input_score"] == pytest.approx(-1)
    assert depth["n_layers"] == len(outputs)


def test_a_layer_without_a_median_is_none_of_those_that_show_a_correlation() -> None:
    rows = [(layer, layer, None if layer == 3 else 1.0 - layer / 10, layer / 10) for layer in range(6)]
    features = pl.DataFrame(rows, schema=["layer", "feature", "input_score", "output_score"], orient="row")
    assert _depth(features)["n_layers"] == 5


def test_choices_at_an_end_of_the_grid_and_failed_ones_are_counted_by_rule(world: dict[str, pl.DataFrame], numbers: dict[str, Any]) -> None:
    assert set(numbers["choices"]) == {"p1", "capped"}
    for rule, choices in numbers["choices"].items():
        rows = world["best_factors"].filter(rule=rule).rows(named=True)
        made = [row["at_grid_end"] for row in rows if row["factor"] is not None]
        assert choices == {
            "n": len(rows),
            "n_failed": len(rows) - len(made),
            "n_at_grid_end": made.count(True),
            "share_at_grid_end": made.count(True) / len(made),
        }


def test_an_interval_without_an_end_to_speak_of_is_not_written_out() -> None:
    assert times({"value": 2.5, "low": 0.0, "high": 207551.5}) == "2.50× [0.00, over 1000]"
    assert times({"value": 1.6, "low": 1.19, "high": 2.04}) == "1.60× [1.19, 2.04]"
    assert (times({"value": 1.6, "low": None, "high": None}), times({"value": None})) == ("1.60×", "–")


@pytest.mark.parametrize(("medians", "n_layers", "said"), [
    ([0.0, 0.0], 2, "none (the median is 0.00 in every layer)"), ([0.4], 1, "– (p –)"),
    ([None, None], 2, "– (p –)"), ([0.1, 0.2], 2, "– (p –)"),
])  # fmt: skip
def test_where_no_median_changes_there_is_no_correlation_with_depth(medians: list[float | None], n_layers: int, said: str) -> None:
    numbers = {"depth": {"n_layers": n_layers, "rho_x": None, "p_x": None}, "layers": [{"median_x": median} for median in medians]}
    assert depth_rho(numbers, "x") == said
