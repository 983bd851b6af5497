"""Intervals against SciPy's, rank correlations against SciPy and against the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.statistics import pooled_rank_correlation
from scipy.stats import bootstrap, spearmanr

from saesteer.core.uncertainty import (
    bootstrap_mean_interval,
    difference_interval,
    mean_columns,
    random_stream,
    rank_correlation,
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


@pytest.mark.parametrize("ends", [None, "", "removed_"])
def test_columns_of_a_mean_are_those_that_a_table_declares(ends: str | None) -> None:
    values, stream = SKEWED[:6], random_stream(3)
    drawn = SelectionSettings(thresholds=(0.1,), late_layers_from=0, bootstrap_draws=100)
    columns = mean_columns("gain", values, drawn, random_stream(3), ends)
    assert list(columns) == ["gain", *(f"{'gain_' if ends is None else ends}{end}" for end in ("low", "high"))]
    assert list(columns.values()) == [values.mean(), *bootstrap_mean_interval(values, 100, drawn.confidence, stream)]
    assert list(mean_columns("gain", values[:1], drawn, stream, ends).values()) == [values[0], None, None]
    assert list(mean_columns("gain", values[:0], drawn, stream, ends).values()) == [None, None, None]
