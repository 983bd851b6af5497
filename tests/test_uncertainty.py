"""Intervals against SciPy's and by how often they cover, rank correlations against SciPy and against the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interval_coverage import (
    POPULATIONS,
    difference_coverage,
    mean_coverage,
    method_scores,
    pairs_of,
    rank_coverage,
    ratio_coverage,
    real_coverage,
)
from oracles.statistics import pooled_rank_correlation
from scipy.stats import binomtest, skew, spearmanr, t, ttest_1samp, ttest_ind

from saesteer.core.uncertainty import (
    RATINGS,
    difference_interval,
    gaffke_bound,
    mean_columns,
    mean_interval,
    of_differences,
    random_stream,
    rank_correlation,
    ratio_interval,
    resampled_interval,
    student_interval,
    within_difference,
)

SKEWED = np.random.default_rng(3).gamma(0.5, 2.0, 60)


def test_an_interval_of_symmetric_values_is_students() -> None:
    values = np.array([-3.0, -1.0, -0.5, 0.5, 1.0, 3.0]) + 7
    theirs = ttest_1samp(values, 0).confidence_interval(0.9)
    assert student_interval(values, 0.9) == pytest.approx((theirs.low, theirs.high))
    assert student_interval(np.array([1.0, 2.0]), 0.95) == pytest.approx((1.5 - 0.5 * t.ppf(0.975, 1), 1.5 + 0.5 * t.ppf(0.975, 1)))


def test_an_end_on_the_long_side_is_where_halls_transformation_is_t() -> None:
    low, high = mean_interval(SKEWED, 0.95)
    assert (low, high) == student_interval(SKEWED, 0.95) == mean_interval(SKEWED[::-1].copy(), 0.95)
    error, a = SKEWED.std(ddof=1) / 60**0.5, skew(SKEWED, bias=False) / 60**0.5
    T = (SKEWED.mean() - high) / error
    assert T + a * T**2 / 3 + a**2 * T**3 / 27 + a / 6 == pytest.approx(-t.ppf(0.975, 59))
    assert low == pytest.approx(ttest_1samp(SKEWED, 0).confidence_interval(0.95).low)  # on the short side Student's is the further one


def test_values_that_hardly_vary_have_what_the_scale_allows() -> None:
    """Of 8 values equal to 2 the lower end is where a share of 2.5 % ** (1 / 8) ones, the rest 0, would be all drawn in 2.5 %."""
    assert mean_interval(np.full(8, 2.0), 0.95, RATINGS) == pytest.approx((2 * 0.025 ** (1 / 8), 2))
    assert mean_interval(np.full(8, 0.5), 0.95, RATINGS) == pytest.approx((0.5 * 0.025 ** (1 / 8), 2 - 1.5 * 0.025 ** (1 / 8)))
    assert student_interval(np.full(8, 0.5), 0.95) == (0.5, 0.5)
    low, high = mean_interval(np.array([2.0, 2, 2, 2, 2, 2, 2, 1]), 0.95, RATINGS)
    assert low < 1.875 * 0.025 ** (1 / 8) < high < 2
    near = np.linspace(0.5, 0.55, 8)  # a fortieth of the scale; from twice as far spread on the values' own spread tells
    assert mean_interval(near, 0.95, RATINGS).high > 2 - 1.5 * 0.025 ** (1 / 8)
    assert mean_interval(np.linspace(0.5, 0.6, 8), 0.95, RATINGS) == student_interval(np.linspace(0.5, 0.6, 8), 0.95)
    turned = mean_interval(2 - near, 0.95, RATINGS)
    assert (2 - turned.high, 2 - turned.low) == pytest.approx(mean_interval(near, 0.95, RATINGS))


def test_few_values_have_what_the_scale_alone_allows_and_on_no_scale_no_interval() -> None:
    values = np.linspace(0.2, 1.8, 7)
    assert mean_interval(values, 0.95, RATINGS) == pytest.approx(
        (gaffke_bound(values, 0.0, 0.0, 0.025), -gaffke_bound(-values, -2.0, -2.0, 0.025))
    )
    assert mean_interval(np.linspace(0.2, 1.8, 8), 0.95, RATINGS) == student_interval(np.linspace(0.2, 1.8, 8), 0.95)
    assert mean_interval(SKEWED[:29], 0.95) is None
    assert mean_interval(SKEWED[:30], 0.95) == student_interval(SKEWED[:30], 0.95)
    assert difference_interval(SKEWED[:29], SKEWED, 0.95) is None


@pytest.mark.parametrize(("k", "n"), [(8, 10), (9, 10), (1, 10), (30, 34), (100, 200)])
def test_values_at_the_ends_of_a_scale_have_clopper_and_pearsons_bounds(k: int, n: int) -> None:
    """They are what quantiles of the beta distribution say; the interval's ends are these or, further in, Student's or Hall's."""
    values = np.repeat([2.0, 0.0], [k, n - k])
    exact = binomtest(k, n).proportion_ci(0.95)
    assert gaffke_bound(values, 0.0, 0.0, 0.025) == pytest.approx(2 * exact.low, abs=1e-5)
    assert gaffke_bound(-values, -2.0, -2.0, 0.025) == pytest.approx(-2 * exact.high, abs=1e-5)
    interval = mean_interval(values, 0.95, RATINGS)
    assert interval.low >= 2 * exact.low - 1e-5
    assert interval.high <= 2 * exact.high + 1e-5


@pytest.mark.parametrize("values", [[2.0] * 6 + [4 / 3] * 3 + [0], [0.1, 0.2, 0.7, 1.1, 1.2, 1.9, 2.0, 2.0]])
def test_gaffkes_bound_is_a_quantile_of_weighted_means(values: list[float]) -> None:
    weights = np.random.default_rng(7).dirichlet(np.ones(len(values) + 1), 400_000)
    drawn = weights @ np.array([*values, 0.0])
    assert gaffke_bound(np.array(values), 0.0, 0.0, 0.025) == pytest.approx(np.quantile(drawn, 0.025), abs=4e-3)


def test_a_single_low_rating_does_not_make_an_interval_of_the_whole_scale() -> None:
    """Hall's transformation alone has its lower end below 0 here."""
    values = np.array([2.0] * 6 + [4 / 3] * 3 + [0])
    assert student_interval(values, 0.95).low < 0
    assert mean_interval(values, 0.95, RATINGS).low == pytest.approx(0.972, abs=2e-3)


def test_a_difference_is_nearly_welchs_and_opposite_the_other_way_round() -> None:
    rng = np.random.default_rng(4)
    a, b = (np.concatenate([half, -half]) for half in (rng.normal(0, 1, 100), rng.normal(0, 3, 40)))
    theirs = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    ours = difference_interval(a, b, 0.95)
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)
    assert difference_interval(b, a, 0.95) == pytest.approx((-ours.high, -ours.low))


@pytest.mark.parametrize("name", POPULATIONS)
def test_intervals_of_means_of_few_values_cover(name: str) -> None:
    """Of as few values as have an interval by their spread; on a scale of fewer."""
    worlds, size = (2000, 30) if POPULATIONS[name][2] is None else (400, 5)
    assert mean_coverage(name, size, worlds) > 0.935 - 0.022  # two standard errors of the simulation


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", POPULATIONS)
def test_intervals_cover_in_long_simulations(name: str) -> None:
    is_on_scale = POPULATIONS[name][2] is not None  # a bound by a scale takes longer, and covers more
    worlds, sizes = (1_000, (4, 8, 16, 34)) if is_on_scale else (20_000, (30, 34, 60))
    assert min(mean_coverage(name, n, worlds) for n in sizes) > (0.94 if is_on_scale else 0.935)
    assert min(difference_coverage(name, n, m, worlds) for n, m in (((4, 13), (16, 34)) if is_on_scale else ((30, 34),))) > 0.935


def test_intervals_of_differences_cover_in_small_groups() -> None:
    """Of ratings and of GenSuccess@20."""
    names = ("0/1/2 with .05, .15, .8", "GenSuccess, 60 % of them 0")
    assert min(difference_coverage(name, 4, 13, 400) for name in names) > 0.94 - 0.022


def test_intervals_cover_the_means_of_real_scores_and_of_their_differences() -> None:
    """Of 16 concepts drawn again from the real ones (score_vectors.csv): each third method, and as many pairs."""
    assert np.mean(real_coverage(method_scores(6)[:, ::3], 16, 60, RATINGS)) > 0.94
    assert np.mean(real_coverage(pairs_of(method_scores(3))[:, ::70], 16, 60, of_differences(RATINGS))) > 0.94


@pytest.mark.exhaustive
@pytest.mark.parametrize("layer", [3, 6])
@pytest.mark.parametrize("n", [6, 8, 12, 16, 34])
def test_intervals_of_real_scores_cover_in_long_simulations(layer: int, n: int) -> None:
    """A vector with one concept of 16 far from the others is covered as often as that concept is drawn; few vectors are such."""
    for values, scale in ((method_scores(layer), RATINGS), (pairs_of(method_scores(layer))[:, ::20], of_differences(RATINGS))):
        covered = real_coverage(values, n, 200, scale)
        assert covered.mean() > 0.945
        assert np.mean(covered < 0.9 - 0.042) <= 0.06  # two standard errors of the simulation


@pytest.mark.parametrize(("rho", "tied"), [(0.0, False), (0.5, False), (0.5, True)])
@pytest.mark.parametrize(("n", "layers"), [(10, 1), (40, 1), (40, 5)])
def test_intervals_of_rank_correlations_cover(rho: float, tied: bool, n: int, layers: int) -> None:
    assert rank_coverage(rho, n, 200, layers, tied) > 0.94 - 0.034


@pytest.mark.parametrize("values", [[], [2.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert mean_interval(np.array(values), 0.95, RATINGS) is student_interval(np.array(values), 0.95) is None
    assert difference_interval(np.array(values), SKEWED, 0.95) is None
    assert difference_interval(SKEWED, np.array(values), 0.95) is None


def test_resampled_intervals_of_few_units_are_wider() -> None:
    """Normal draws: Student's t with the spread that n / (n - 1) mends."""
    draws = np.random.default_rng(0).standard_normal(200_000)
    for n in (6, 10_000):
        assert resampled_interval(draws, n, 0.95).high == pytest.approx((n / (n - 1)) ** 0.5 * t.ppf(0.975, n - 1), abs=0.06)


def test_streams_differ_by_every_part_of_the_label() -> None:
    labels = [(0, "a", 0.1), (1, "a", 0.1), (0, "b", 0.1), (0, "a", 0.2), (0, "a")]
    drawn = {random_stream(*label).integers(2**62) for label in labels}
    assert len(drawn) == len(labels)
    # A fixed number: another NumPy, platform or hash seed must draw the same.
    assert random_stream(0, "a", 0.1).integers(2**62) == 4016384010605361119


def test_one_stratum_is_spearman() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=80), rng.normal(size=80).round()
    y[:40] += x[:40].round()
    ours = rank_correlation(x, y, np.zeros(80, dtype=np.int64), 0.95)
    assert ours.rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_the_interval_of_a_rank_correlation_has_the_larger_of_two_standard_errors() -> None:
    """Bonett and Wright's of a weak correlation of normal pairs; where high values scatter more, the bootstrap's: SciPy's agrees."""
    rng, one_layer = np.random.default_rng(2), np.zeros(300, dtype=np.int64)
    x = rng.exponential(size=300)
    for y, is_larger in ((0.3 * x + rng.uniform(size=300), False), (x * rng.normal(1, 1.5, 300), True)):
        rho, low, high = rank_correlation(x, y, one_layer, 0.95)[1:]
        reach = (np.arctanh(high) - np.arctanh(low)) / 2 / t.ppf(0.975, 297)
        picks = rng.integers(0, 300, (800, 300))
        resampled = np.arctanh([spearmanr(x[pick], y[pick]).statistic for pick in picks]).std()
        normal = np.sqrt((1 + rho**2 / 2) / 297)
        assert (resampled > normal * 1.05) == is_larger
        assert reach == pytest.approx(max(normal, resampled), rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=3, max_size=25), st.randoms())
def test_pooled_correlation_is_the_definition_in_any_order(rows: list[tuple[int, int, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for order in (rows, shuffled):
        x, y, strata = (np.array(column) for column in zip(*order, strict=True))
        results.append(rank_correlation(x.astype(float), y.astype(float), strata, 0.95))
    assert results[0] == results[1]
    x, y, strata = zip(*rows, strict=True)
    if results[0].rho is None:
        with pytest.raises(ZeroDivisionError):
            pooled_rank_correlation(x, y, strata)
    else:
        assert results[0].rho == pytest.approx(pooled_rank_correlation(x, y, strata), abs=1e-12)


def test_correlations_that_do_not_exist() -> None:
    empty = np.zeros(0)
    assert rank_correlation(empty, empty, np.zeros(0, dtype=np.int64), 0.95) == (0, None, None, None)
    same = np.ones(5)
    assert rank_correlation(same, SKEWED[:5], np.zeros(5, dtype=np.int64), 0.95) == (5, None, None, None)
    two = rank_correlation(np.array([1.0, 2.0]), np.array([5.0, 6.0]), np.zeros(2, dtype=np.int64), 0.95)
    assert two == (2, 1.0, None, None)


def test_kept_ratio_is_its_factors_and_its_error_that_of_resampled_layers() -> None:
    rng = np.random.default_rng(1)
    layers = np.repeat([0, 1, 2], [40, 60, 80])
    is_kept = rng.random(180) < np.array([0.1, 0.3, 0.6])[layers]
    values = rng.binomial(20, np.where(is_kept, 0.4, 0.2)) + layers

    def logarithms(picked: np.ndarray) -> list[float]:
        v, kept, layer = values[picked], is_kept[picked], layers[picked]
        at_random = sum(kept[layer == k].sum() * v[layer == k].mean() for k in range(3)) / kept.sum()
        return [np.log(v[kept].mean() / v.mean()), np.log(at_random / v.mean()), np.log(v[kept].mean() / at_random)]

    places = [np.flatnonzero(layers == k) for k in range(3)]
    resampled = [logarithms(np.concatenate([rng.choice(place, len(place)) for place in places])) for _ in range(4000)]
    shuffled = rng.permutation(180)
    ours = ratio_interval(values[shuffled] * 1.0, is_kept[shuffled], layers[shuffled], 0.95)
    for (value, ends), expected, error in zip(ours, logarithms(np.arange(180)), np.std(resampled, axis=0), strict=True):
        assert np.log(value) == pytest.approx(expected)
        assert np.log(ends) - np.log(value) == pytest.approx(np.array([-1, 1]) * t.ppf(0.975, is_kept.sum() - 1) * error, rel=0.08)
    assert ours == ratio_interval(values * 1.0, is_kept, layers, 0.95)


@pytest.mark.parametrize(("n", "shares"), [(30, (0.05, 0.1, 0.2)), (64, (0.02, 0.03, 0.1, 0.2, 0.3)), (128, (0.15,))])
def test_intervals_of_kept_ratios_cover(n: int, shares: tuple[float, ...]) -> None:
    assert min(ratio_coverage(n, shares, 600)) > 0.94 - 0.02  # two standard errors of the simulation


def test_kept_ratios_that_do_not_exist() -> None:
    values, layers = np.array([0.0, 1.0, 2.0, 0.0]), np.zeros(4, dtype=np.int64)
    nothing = ratio_interval(values, np.zeros(4, dtype=bool), layers, 0.95)
    assert nothing == ratio_interval(values * 0, values > 0, layers, 0.95) == ((None, None),) * 3
    assert ratio_interval(values, values == 2, layers, 0.95).ratio == (pytest.approx(2 / 0.75), None)
    assert ratio_interval(values, values == 0, layers, 0.95).ratio == (0, None)
    everything = ratio_interval(values, values >= 0, layers, 0.95)
    assert all((part.value, *part.interval) == pytest.approx((1, 1, 1)) for part in everything)


def test_a_difference_inside_strata_is_that_of_least_squares_with_dummies() -> None:
    """Against the normal equations with a column for each stratum and the hat matrix's diagonal, in another order."""
    rng = np.random.default_rng(5)
    strata, is_kept = rng.integers(0, 9, 60), rng.random(60) < 0.3
    values = rng.gamma(2, 1, 60) + strata * 0.5
    design = np.column_stack([is_kept * 1.0, *(strata[None] == np.unique(strata)[:, None]) * 1.0])
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    meat = design.T * ((values - design @ coefficients) / (1 - leverage)) ** 2 @ design
    error = np.sqrt((inverse @ meat @ inverse)[0, 0])
    both = [group for group in np.unique(strata) if 0 < is_kept[strata == group].sum() < (strata == group).sum()]
    df = np.isin(strata, both).sum() - len(both) - 1
    shuffled = rng.permutation(60)
    ours = within_difference(values[shuffled], is_kept[shuffled], strata[shuffled], 0.95)
    assert ours.value == pytest.approx(coefficients[0])
    assert np.array(ours.interval) == pytest.approx(coefficients[0] + np.array([-1, 1]) * t.ppf(0.975, df) * error, rel=1e-6)
    assert within_difference(values, is_kept, strata * 0 + np.arange(60), 0.95) == (None, None)
    assert within_difference(values[:2], np.array([True, False]), strata[:2] * 0, 0.95).interval is None


def test_a_difference_inside_strata_is_covered() -> None:
    """Strata of other means, spreads that differ, and ratings of 0 to 2; few values and many."""
    rng = np.random.default_rng(6)
    for n, n_strata in ((17, 6), (120, 30)):
        n_covered, n_intervals = 0, 0
        for number in range(1200):
            strata, is_kept = rng.integers(0, n_strata, n), rng.random(n) < 0.25
            noise = rng.normal(0, 1 + is_kept) if number % 2 else rng.choice(3, n, p=[0.5, 0.3, 0.2])
            interval = within_difference(rng.normal(0, 1, n_strata)[strata] * (number % 2) + noise, is_kept, strata, 0.95).interval
            if interval is not None:
                n_intervals, n_covered = n_intervals + 1, n_covered + (interval.low <= 0 <= interval.high)
        assert n_covered / n_intervals > 0.94, n


@pytest.mark.parametrize("ends", [None, "", "removed_"])
def test_columns_of_a_mean_are_those_that_a_table_declares(ends: str | None) -> None:
    values = SKEWED[:40]
    columns = mean_columns("gain", values, 0.95, ends)
    assert list(columns) == ["gain", *(f"{'gain_' if ends is None else ends}{end}" for end in ("low", "high"))]
    assert list(columns.values()) == [values.mean(), *mean_interval(values, 0.95)]
    assert list(mean_columns("gain", values[:1], 0.95, ends).values()) == [values[0], None, None]
    assert list(mean_columns("gain", values[:0], 0.95, ends).values()) == [None, None, None]
