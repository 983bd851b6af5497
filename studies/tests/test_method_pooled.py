"""The comparison over the world's seeds: by hand on a small case, and against SciPy's paired t interval."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from method_rows import method_settings
from polars.testing import assert_frame_equal
from scipy import stats

from saesteer.core.tables import by_name
from saesteer.core.uncertainty import student_interval
from studies.pages.methods import (
    POOLED_FILES,
    TABLE_COLUMNS,
    TABLES,
    equal_cost_markdown,
    methods_markdown,
    pool_results,
    published_order_markdown,
    scores_markdown,
)
from studies.pages.pooled import pooled_equal_cost, pooled_methods, pooled_scores, seeds_reach
from studies.pages.results import Snapshot, write_snapshot


def scores(values: dict[str, list[float | None]]) -> pl.DataFrame:
    """METHOD_SCORES' columns that count: a method's score of each concept."""
    rows = [(3, name, f"{place:016x}", value) for name, own in values.items() for place, value in enumerate(own)]
    return pl.DataFrame(rows, schema={"layer": pl.UInt16, "method": pl.String, "concept_id": pl.String, "score": pl.Float64}, orient="row")


def tables(values: dict[str, list[float | None]], fluency: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """METHODS_TABLE's and METHOD_DAMAGE's columns that count."""
    means = [float(np.mean([value for value in own if value is not None])) for own in values.values()]
    keys = pl.DataFrame({"layer": pl.Series([3] * len(values), dtype=pl.UInt16), "method": list(values)})
    methods = keys.with_columns(
        pl.col("method").str.to_uppercase().alias("title"), pl.Series("score", means), n_abstaining=1, concept_rating=1.0,
        fluency_rating=fluency, n_effect_vectors=pl.lit(None, pl.UInt32), median_relative_change=pl.lit(None, pl.Float64),
    )  # fmt: skip
    return methods, keys.with_columns(loss_rise=fluency / 2, other_rating=pl.lit(None, pl.Float64))


def at_equal_cost(values: Mapping[float, dict[str, list[float | None]]], unsteered: float) -> pl.DataFrame:
    """METHOD_EQUAL_COST_SCORES' columns that count: scores under each limit; up to `unsteered` every concept is."""
    return pl.concat(scores(own).with_columns(limit=pl.lit(limit), abstains=limit <= unsteered) for limit, own in values.items())


def method_tables(folder: Path, shift: float) -> tuple[pl.DataFrame, ...]:
    """A comparison's TABLES, whole, written where a run has them."""
    own: dict[str, list[float | None]] = {"a": [0.0, 0.2, 0.1, 0.3], "b": [0.5, 0.75, 0.6, 0.8 + shift]}
    methods, damage = tables(own, 1.0 + shift)
    whole = []
    for which, rows in zip(TABLES, (scores(own), methods, damage, at_equal_cost({0.1: own}, 0.0)), strict=True):
        rest = [
            pl.lit([] if kind == pl.List else "" if kind == pl.String else 0).cast(kind).alias(name)
            for name, kind in which.schema.items()
            if name not in rows.columns
        ]
        whole.append(rows.with_columns(rest).select(list(which.schema)).cast(pl.Schema(which.schema)))
        folder.mkdir(parents=True, exist_ok=True)
        whole[-1].write_parquet(folder / f"{which.name}.parquet")
    return tuple(whole)


def test_by_hand(tmp_path: Path) -> None:
    """Two seeds, three methods: b is a half above a in every concept, c lies between and is missing once."""
    first: dict[str, list[float | None]] = {"a": [0.0, 0.2, 0.1, 0.3], "b": [0.5, 0.7, 0.6, 0.8], "c": [0.2, None, 0.4, 0.5]}
    second: dict[str, list[float | None]] = {"a": [0.2, 0.0, 0.3, 0.1], "b": [0.7, 0.5, 0.8, 0.6], "c": [0.4, 0.3, 0.2, 0.1]}
    both = (first, second)
    pooled = pooled_scores([scores(one) for one in both])
    assert pooled.filter(method="a")["score"].to_list() == pytest.approx([0.1, 0.1, 0.2, 0.2])
    assert pooled.filter(method="c")["score"].to_list() == [pytest.approx(0.3), None, pytest.approx(0.3), pytest.approx(0.3)]
    methods, damage = zip(*(tables(one, fluency) for one, fluency in zip(both, (1.0, 2.0), strict=True)), strict=True)
    rows, differences = pooled_methods([scores(one) for one in both], methods, damage, method_settings())
    a, b, c = rows.sort("method").iter_rows(named=True)
    assert (a["n"], b["n"], c["n"]) == (4, 4, 3)
    assert (a["score"], b["score"], c["score"]) == (pytest.approx(0.15), pytest.approx(0.65), pytest.approx(0.3))
    assert (a["rank"], b["rank"], c["rank"]) == (3, 1, 2)
    assert (b["seed_0"], b["seed_1"]) == (pytest.approx(0.65), pytest.approx(0.65))
    assert (b["fluency_rating"], b["loss_rise"], b["other_rating"], b["n_abstaining"]) == (1.5, 0.75, None, 2)
    # Every concept has b half above a in both seeds; but four concepts tell no pair apart among three.
    pair = differences.row(by_predicate=(pl.col("method") == "a") & (pl.col("other") == "b"), named=True)
    assert pair["low"] == pytest.approx(-0.5 - 1.5 * (1 - 0.025**0.25))
    assert [pair[name] for name in ("win_rate", "win_rate_low", "win_rate_high")] == pytest.approx([0, 0, 1 - 0.025**0.25], abs=1e-6)
    assert {row[name] for row in (a, b, c) for name in ("n_above", "n_below")} == {0}
    limited = [at_equal_cost({0.05: {**one, "b": one["a"]}, 0.1: one}, limit) for one, limit in zip(both, (0.05, 0.0), strict=True)]
    equal_cost = pooled_equal_cost(limited, rows, method_settings())
    for name, table in zip(POOLED_FILES, (rows, differences, equal_cost), strict=True):
        table.write_csv(tmp_path / name, float_precision=4)
    text = methods_markdown(tmp_path)
    unseen = 1 - 0.025**0.25  # two of four equal: what the scale allows
    score = f"0.65 [{0.65 - 0.65 * unseen:.2f}, {0.65 + 1.35 * unseen:.2f}]"
    assert text.splitlines()[2].startswith(f"| B | {score} | 0.65 0.65 | 1.00 / 1.50 | 0.75 | – | 0 / 0 | 2 |")
    assert "n = 4 concepts, each the mean of 2 training seeds" in text
    header, _, line, *_ = scores_markdown(tmp_path).splitlines()
    assert (header.split(" | ")[2], line) == ("at most 0.1 nats, layer 3", f"| B | {score} | {score} | 0.75 |")
    # Under the lower limit b has a's scores, and in one of two seeds all are unsteered.
    low = f"0.15 [{a['score_low']:.2f}, {a['score_high']:.2f}]"
    of_layer, table, rho = equal_cost_markdown(tmp_path).split("\n\n")
    assert of_layer == "Layer 3:"
    assert table.splitlines()[2] == f"| B | {score} | {low}, 50% unsteered | {score} |"
    assert rho.endswith("0.05 nats: 0.00; 0.1 nats: 1.00.")


def test_seeds_are_kept_one_at_a_time_and_pooled_from_what_is_kept(tmp_path: Path) -> None:
    """Snapshot on two days, pooled they are what the tables themselves give, but for the fifth digit."""
    made = [method_tables(tmp_path / f"data/{name}/tables", shift) for name, shift in (("one", 0.0), ("two", 0.25))]
    for name in ("one", "two"):
        write_snapshot(tmp_path, Snapshot(name, by_name(*TABLES), f"kept/{name}", TABLE_COLUMNS, 6))
    pool_results([tmp_path / "kept/one", tmp_path / "kept/two"], method_settings(), tmp_path)
    scores, methods, damage, limited = zip(*made, strict=True)
    means, differences = pooled_methods(scores, methods, damage, method_settings())
    tables = (means, differences, pooled_equal_cost(limited, means, method_settings()))
    for name, table in zip(POOLED_FILES, tables, strict=True):
        assert_frame_equal(pl.read_csv(tmp_path / name, schema=table.schema), table, rel_tol=0, abs_tol=2e-3)


def test_the_seeds_reach_is_that_of_their_variance_component() -> None:
    """By hand: seeds' means 1 and 3 of two concepts, mean square 2 x 2 = 4; residuals +-1/2, mean square 1; variance (4 - 1) / 4."""
    assert seeds_reach(np.array([[0.0, 2.0, np.nan], [3.0, 3.0, 1.0]]), 0.95) == pytest.approx(stats.t.ppf(0.975, 1) * 0.75**0.5)
    assert seeds_reach(np.array([[0.0, 2.0], [2.0, 0.0]]), 0.95) == 0  # the seeds' means are alike
    assert seeds_reach(np.array([[0.0, 2.0]]), 0.95) == 0


@pytest.mark.parametrize("n_seeds", [3, 10])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_intervals_over_seeds_and_concepts_cover(n_seeds: int, spread: float) -> None:
    """16 concepts that vary by .3, noise of .3, and seeds that don't vary, somewhat, and more than the concepts."""
    rng, n_covered = np.random.default_rng(0), 0
    for _ in range(800):
        values = spread * rng.normal(size=(n_seeds, 1)) + 0.3 * rng.normal(size=16) + 0.3 * rng.normal(size=(n_seeds, 16))
        mean, (low, high), reach = values.mean(), student_interval(values.mean(axis=0), 0.95), seeds_reach(values, 0.95)
        n_covered += mean - np.hypot(mean - low, reach) <= 0 <= mean + np.hypot(high - mean, reach)
    assert n_covered / 800 > 0.94 - 0.017  # two standard errors of the simulation


def test_seeds_together_see_what_one_does_not() -> None:
    """Each seed adds noise of its own to a difference of .2: pooled, less is left; the interval is a t interval of the same means, with
    what the seeds differ by beside it."""
    rng = np.random.default_rng(0)
    seeds = [{"a": rng.normal(1, 0.3, 16).tolist(), "b": rng.normal(1.2, 0.3, 16).tolist()} for _ in range(3)]
    settings = method_settings(bootstrap_draws=2000)
    parts = zip(*(tables(one, 1.0) for one in seeds), strict=True)
    _, together = pooled_methods([scores(one) for one in seeds], *map(list, parts), settings)
    alone = [pooled_methods([scores(one)], *([part] for part in tables(one, 1.0)), settings)[1] for one in seeds]
    assert together["detectable"][0] < min(one["detectable"][0] for one in alone)
    means = [np.mean([one[name] for one in seeds], axis=0) for name in ("a", "b")]
    theirs = stats.ttest_rel(*means).confidence_interval(0.95)
    of_seeds = seeds_reach(np.array([np.subtract(one["a"], one["b"]) for one in seeds]), 0.95)
    reach = np.hypot((theirs.high - theirs.low) / 2, of_seeds)
    assert (together["high"][0] - together["low"][0]) / 2 == pytest.approx(reach, rel=0.1)


def test_p4s_order_stands_beside_ours(tmp_path: Path) -> None:
    """By P4's table: DiffMean .297, .178, .322, .158, a mean of .239 over its four hook points, below LoReFT's .741 and above the SAE's
    .165."""
    rows = [
        (3, "diffmean", "DiffMean", 1.2, 1.1, 1.3),
        (3, "loreft", "LoReFT", 1.0, 0.9, 1.1),
        (3, "sae_label", "SAE, by label", 0.5, None, None),
        (3, "pca", "PCA", 0.4, None, None),
        (3, "sft", "SFT", 0.3, None, None),
    ]
    names = ["layer", "method", "title", "score", "score_low", "score_high"]
    pl.DataFrame([*rows, (3, "caa", "CAA", 1.0, 0.9, 1.1)], schema=names, orient="row").write_csv(tmp_path / POOLED_FILES[0])
    assert published_order_markdown(tmp_path).splitlines()[2:] == [
        "| LoReFT | 0.741 | 1.00 [0.90, 1.10] | 1 | 2 |",
        "| SFT | 0.675 (2 of 4) | 0.30 | 2 | 5 |",  # at the small model's two layers only
        "| DiffMean | 0.239 | 1.20 [1.10, 1.30] | 3 | 1 |",
        "| SAE, by label | 0.165 | 0.50 | 4 | 3 |",
        "| PCA | 0.105 | 0.40 | 5 | 4 |",  # published as a mean of all
    ]
