"""Ranks of methods and detectable differences: by hand, by SciPy, by simulation."""

import numpy as np
import pytest
from method_rows import method_settings, score_rows
from scipy import stats

from saesteer.methods.compare.differences import detectable
from saesteer.methods.compare.means import method_ranks


def ranked(of: dict[str, list[float | None]]) -> dict[str, tuple[float, float, float]]:
    table = method_ranks(score_rows(of), method_settings(bootstrap_draws=500))
    return {row["method"]: (row["rank"], row["rank_low"], row["rank_high"]) for row in table.iter_rows(named=True)}


def test_one_that_is_always_better_is_first_in_every_draw() -> None:
    made = ranked({"a": [1.0, 1.2, 1.4], "b": [0.5, 0.6, 0.7], "c": [1.9, 1.8, 1.7]})
    assert made == {"a": (2, 2, 2), "b": (3, 3, 3), "c": (1, 1, 1)}


def test_equals_share_their_places_and_one_without_a_score_has_none() -> None:
    made = ranked({"a": [1.0, 0.0], "b": [1.0, 0.0], "c": [0.0, 0.5], "d": [None, None]})
    assert made["a"] == made["b"]
    assert (made["a"][0], made["c"][0]) == (1.5, 3)
    assert "d" not in made
    assert made["c"][1:] == (1, 3)  # drawn twice, the second concept makes it the best
    alone = method_ranks(score_rows({"a": [1.0], "b": [2.0]}), method_settings())
    assert alone.select("rank", "rank_low").rows() == [(2, None), (1, None)]


def test_ranks_are_scipys_over_all_resamples() -> None:
    """With 3 concepts there are 27 resamples, and percentiles so far out that the ends are the first and last place of all of them."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 5))
    every = np.stack(np.meshgrid(*[range(3)] * 3), axis=-1).reshape(-1, 3)
    exact = stats.rankdata(-values[every].mean(axis=1), axis=1)
    table = method_ranks(score_rows({str(m): values[:, m].tolist() for m in range(5)}), method_settings(bootstrap_draws=20_000))
    assert table["rank"].to_list() == stats.rankdata(-values.mean(axis=0)).tolist()
    assert np.allclose(table["rank_low"], exact.min(axis=0), atol=0.01)
    assert np.allclose(table["rank_high"], exact.max(axis=0), atol=0.01)


def test_a_detectable_difference_is_found_four_times_in_five() -> None:
    """t tests of normal differences whose true mean is the detectable one."""
    differences = np.array([0.1, -0.3, 0.5, 0.2, 0.4, -0.1, 0.6, 0.0])
    size = detectable(differences, 0.95)
    spread = float(differences.std(ddof=1))
    assert size == pytest.approx((stats.t.ppf(0.975, 7) + stats.t.ppf(0.8, 7)) * spread / 8**0.5)
    drawn = np.random.default_rng(1).normal(size, spread, size=(20_000, 8))
    assert (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)
    assert detectable(np.array([0.3]), 0.95) is None
