"""Win rates, and which of all pairs of methods are told apart, against SciPy, by hand, and on real scores."""

import numpy as np
import pytest
from interval_coverage import errs, family_wise_error, family_wise_error_of_means, method_scores
from method_rows import method_settings, score_rows
from scipy import stats

from saesteer.core.uncertainty import RATINGS, SHARES, mean_interval, of_differences
from saesteer.methods.compare.differences import method_differences, p_all_pairs
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
    """49 methods, 16 concepts. Of means, Student's t at Bonferroni's level errs in far more than the 5 % it says: scores are skewed."""
    scores = method_scores(layer)
    assert family_wise_error(scores, 60) <= 0.05
    assert family_wise_error_of_means(scores, 300) > 0.1


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
