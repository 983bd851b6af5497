"""Win rates, which of all pairs of methods are told apart, ranks and detectable differences: against SciPy, by hand, and on real scores."""

import numpy as np
import pytest
from interval_coverage import errs, family_wise_error, method_scores
from method_rows import method_settings, score_rows
from scipy import stats

from saesteer.core.uncertainty import RATINGS, SHARES, mean_interval, of_differences
from saesteer.methods.compare.means import detectable, method_differences, method_ranks, p_all_pairs
from saesteer.site.method_report import both_ways

SETTINGS = method_settings()


def test_the_win_rate_is_the_share_of_concepts_won_with_ties_as_halves() -> None:
    """By hand lat wins 2 of 4 concepts from pca and ties 1 (its sum differs in the last bit), (2 + .5) / 4; a concept that either lacks
    counts nowhere, and a pair without any has no rate. Then every pair of random scores, in plain Python, both ways round."""
    by_hand = {"lat": [2.0, 0.1 + 0.2, 1.0, 0.5, None], "pca": [1.0, 0.3, 0.0, 1.5, 2.0], "probe": [None] * 5}
    first, *without = method_differences(score_rows(by_hand), SETTINGS).to_dicts()
    columns = ("win_rate", "win_rate_low", "win_rate_high")
    assert (first["n"], first["win_rate"]) == (4, 0.625)
    assert [first[name] for name in columns[1:]] == pytest.approx(mean_interval(np.array([1, 0.5, 1, 0]), 0.95, SHARES))
    assert {row[name] for row in without for name in columns} == {None}
    rng = np.random.default_rng(3)
    drawn = {
        key: [None if rng.random() < 0.1 else float(rng.integers(0, 5)) / 2 for _ in range(16)] for key in ("lat", "pca", "ssv", "sft")
    }
    pairs = both_ways(method_differences(score_rows(drawn), SETTINGS)).to_dicts()
    assert len(pairs) == 12
    for row in pairs:
        both = [(a, b) for a, b in zip(drawn[row["method"]], drawn[row["other"]], strict=True) if a is not None and b is not None]
        won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in both]
        assert row["win_rate"] == pytest.approx(sum(won) / len(won))
        assert [row[name] for name in columns[1:]] == pytest.approx(mean_interval(np.array(won), 0.95, SHARES))
    every = method_differences(score_rows({"lat": [1.0] * 8, "pca": [0.0] * 8}), SETTINGS).row(0, named=True)
    assert every["win_rate_low"] == pytest.approx(stats.binomtest(8, 8).proportion_ci().low, abs=1e-6)  # Clopper and Pearson's


def test_all_pairs_are_told_apart_by_the_sign_test_of_each_times_their_number() -> None:
    """Ties count for neither side, a concept that either lacks nowhere; the same the other way round."""
    rng = np.random.default_rng(7)
    for n, n_pairs in ((1, 1), (9, 3), (16, 1176), (40, 45)):
        differences = rng.choice([-0.5, 0.0, 0.1, 2.0], n)
        above, below = int((differences > 0).sum()), int((differences < 0).sum())
        theirs = stats.binomtest(above, above + below).pvalue if above + below else 1.0
        assert p_all_pairs(differences, n_pairs) == p_all_pairs(-differences, n_pairs) == pytest.approx(min(1, theirs * n_pairs))
    assert p_all_pairs(np.zeros(16), 10) == 1
    assert p_all_pairs(np.array([1e-12] * 16), 1) == 1  # the sums of equal scores differ in their last bits
    assert p_all_pairs(np.empty(0), 10) is None
    best = {"lat": [1.0] * 7, "pca": [0.5] * 7, "probe": [0.5] * 6 + [None]}
    pairs = method_differences(score_rows(best), SETTINGS)
    assert pairs["p_all_pairs"].to_list() == [3 * 2 / 2**7, 3 * 2 / 2**6, 1]


@pytest.mark.parametrize("layer", [3, 6])
def test_of_real_methods_that_do_not_differ_none_is_told_apart(layer: int) -> None:
    """49 methods, 16 concepts."""
    assert family_wise_error(method_scores(layer), 60) <= 0.05


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", [3, 6])
def test_none_is_told_apart_in_long_simulations(layer: int) -> None:
    """And of 1,176 pairs that have nothing to do with one another, which err together most often."""
    assert family_wise_error(method_scores(layer), 1000) <= 0.05
    rng = np.random.default_rng(layer)
    assert np.mean([errs(rng.exponential(size=(16, 1176)) - np.log(2), 1176) for _ in range(500)]) <= 0.05 + 0.02


def test_the_scale_of_a_difference_is_that_of_the_score() -> None:
    """P2's product of means is at most 1: the scale of ratings would make the interval of few concepts wider."""
    rows = score_rows({"lat": [0.2, 0.5, 0.9], "pca": [0.1, 0.1, 0.1]})
    for score, scale in (("product_of_means", SHARES), ("harmonic_mean", RATINGS)):
        pair = method_differences(rows, method_settings(score=score)).row(0, named=True)
        expected = mean_interval(np.array([0.1, 0.4, 0.8]), 0.95, of_differences(scale))
        assert (pair["low"], pair["high"]) == pytest.approx(expected)


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
    tenths = ranked({"a": [0.1, 0.2, 0.3], "b": [0.3, 0.2, 0.1], "c": [0.0, 0.0, 0.0]})  # the sums of a and b differ in the last bit
    assert tenths["a"][0] == tenths["b"][0] == 1.5
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
