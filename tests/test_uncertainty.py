"""Intervals against SciPy's, rank correlations against SciPy and against the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.statistics import pooled_rank_correlation
from scipy.stats import bootstrap, spearmanr, t

from saesteer.core.uncertainty import (
    bootstrap_mean_interval,
    difference_interval,
    mean_columns,
    random_stream,
    rank_correlation,
    ratio_interval,
    within_difference,
)
from saesteer.settings import SelectionSettings

SKEWED = np.random.default_rng(3).gamma(0.5, 2.0, 60)


def test_mean_interval_is_scipys_percentile_interval() -> None:
    ours = bootstrap_mean_interval(SKEWED, 20000, 0.95, random_stream(0, "a"))
    theirs = bootstrap((SKEWED,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    # Two runs of 20,000 draws: an end's Monte Carlo error is about .013 standard errors of the mean's .24 or so.
    assert ours is not None
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_unpaired_difference_is_scipys_percentile_interval() -> None:
    other = np.random.default_rng(4).normal(1, 1, 25)
    ours = difference_interval(SKEWED, other, 20000, 0.9, random_stream(0, "b"))
    scipys = bootstrap(
        (SKEWED, other),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=20000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours == pytest.approx((scipys.low, scipys.high), abs=0.02)


@pytest.mark.parametrize("values", [[], [2.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    assert bootstrap_mean_interval(np.array(values), 100, 0.95, random_stream(0)) is None
    assert difference_interval(np.array(values), SKEWED, 100, 0.95, random_stream(0)) is None
    assert difference_interval(SKEWED, np.array(values), 100, 0.95, random_stream(0)) is None


def test_interval_does_not_depend_on_order() -> None:
    forwards, backwards = (bootstrap_mean_interval(values, 500, 0.95, random_stream(7)) for values in (SKEWED, SKEWED[::-1].copy()))
    assert forwards == backwards


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
    ours = rank_correlation(x, y, np.zeros(80, dtype=np.int64), 2000, 0.95, random_stream(0))
    assert ours.rho == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    theirs = bootstrap(
        (x, y), lambda a, b: spearmanr(a, b).statistic, paired=True, vectorized=False, n_resamples=1000, method="percentile", rng=rng
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), min_size=3, max_size=25), st.randoms())
def test_pooled_correlation_is_the_definition_in_any_order(rows: list[tuple[int, int, int]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for order in (rows, shuffled):
        x, y, strata = (np.array(column) for column in zip(*order, strict=True))
        results.append(rank_correlation(x.astype(float), y.astype(float), strata, 20, 0.95, random_stream(0)))
    assert results[0] == results[1]
    x, y, strata = zip(*rows, strict=True)
    if results[0].rho is None:
        with pytest.raises(ZeroDivisionError):
            pooled_rank_correlation(x, y, strata)
    else:
        assert results[0].rho == pytest.approx(pooled_rank_correlation(x, y, strata), abs=1e-12)


def test_correlations_that_do_not_exist() -> None:
    empty = np.zeros(0)
    assert rank_correlation(empty, empty, np.zeros(0, dtype=np.int64), 10, 0.95, random_stream(0)) == (0, None, None, None)
    same = np.ones(5)
    assert rank_correlation(same, SKEWED[:5], np.zeros(5, dtype=np.int64), 10, 0.95, random_stream(0)) == (5, None, None, None)
    two = rank_correlation(np.array([1.0, 2.0]), np.array([5.0, 6.0]), np.zeros(2, dtype=np.int64), 10, 0.95, random_stream(0))
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
    values, stream = SKEWED[:6], random_stream(3)
    drawn = SelectionSettings(thresholds=(0.1,), late_layers_from=0, bootstrap_draws=100)
    columns = mean_columns("gain", values, drawn, random_stream(3), ends)
    assert list(columns) == ["gain", *(f"{'gain_' if ends is None else ends}{end}" for end in ("low", "high"))]
    assert list(columns.values()) == [values.mean(), *bootstrap_mean_interval(values, 100, drawn.confidence, stream)]
    assert list(mean_columns("gain", values[:1], drawn, stream, ends).values()) == [values[0], None, None]
    assert list(mean_columns("gain", values[:0], drawn, stream, ends).values()) == [None, None, None]
