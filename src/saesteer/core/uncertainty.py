"""Intervals of every number that is reported: percentile bootstrap of means, differences and rank correlations over features.

The percentile method throughout: it needs no assumption about the distribution, and the interval of an exponential is the
exponential of the interval (perplexity is averaged as a logarithm). Results depend on the values and the stream only, not on
the order in which the values come.
"""

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

_BLOCK = 2**22  # elements drawn at a time: bounds memory for large feature sets


class Interval(NamedTuple):
    """An interval of a number."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A number with its interval; None where they do not exist."""

    value: float | None
    interval: Interval | None


class KeptRatio(NamedTuple):
    """How many times the mean over all the mean over kept ones is, as a product: `ratio` = `mix` * `within`."""

    ratio: Estimate
    """(mean over kept) / (mean over all)."""
    mix: Estimate
    """(Mean expected of as many of each stratum, kept at random) / (mean over all): what the choice of strata does."""
    within: Estimate
    """(Mean over kept) / (that expectation): what the choice inside strata does."""


class RankCorrelation(NamedTuple):
    """Spearman's rho with its interval; rho is None when one of the two does not vary, the ends when there are fewer than 3 pairs."""

    n: int
    rho: float | None
    low: float | None
    high: float | None


@runtime_checkable
class Bootstrap(Protocol):
    """The settings of an interval: how many draws, and what share of them it holds."""

    @property
    def bootstrap_draws(self) -> int: ...

    @property
    def confidence(self) -> float: ...


def random_stream(seed: int, *label: str | int | float) -> np.random.Generator:
    """A stream of random numbers of its own for each seed and label, by SHA-256, so that no stream depends on what else is computed."""
    digest = hashlib.sha256("/".join(str(part) for part in (seed, *label)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(np.frombuffer(digest, dtype="<u4").tolist()))


def bootstrap_mean_interval(values: Float[np.ndarray, " n"], draws: int, confidence: float, stream: np.random.Generator) -> Interval | None:
    """Percentile bootstrap interval of the mean of n values; None for fewer than 2."""
    if len(values) < 2:
        return None
    return quantile_interval(_resampled_means(values, draws, stream), confidence)


def mean_columns(
    name: str, values: Float[np.ndarray, " n"], settings: Bootstrap, stream: np.random.Generator, ends: str | None = None
) -> dict[str, float | None]:
    """The mean of n values with its interval, as `interval_columns`; null where there are no values, the ends for fewer than 2."""
    interval = bootstrap_mean_interval(values, settings.bootstrap_draws, settings.confidence, stream)
    return interval_columns(name, float(values.mean()) if len(values) else None, interval, ends)


def interval_columns(name: str, value: float | None, interval: Interval | None, ends: str | None = None) -> dict[str, float | None]:
    """A value with its interval as columns NAME, NAME_low and NAME_high of a table; `ends` is what the names of the ends begin with,
    where that is not NAME_."""
    low, high = interval or (None, None)
    begin = f"{name}_" if ends is None else ends
    return {name: value, f"{begin}low": low, f"{begin}high": high}


def difference_interval(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"], draws: int, confidence: float, stream: np.random.Generator
) -> Interval | None:
    """Interval of mean(a) - mean(b) of two groups of different features, each resampled by itself; None if either has fewer than 2."""
    if min(len(a), len(b)) < 2:
        return None
    first = _resampled_means(a, draws, stream)
    return quantile_interval(first - _resampled_means(b, draws, stream), confidence)


def ratio_interval(
    values: Float[np.ndarray, " n"], is_kept: Bool[np.ndarray, " n"], strata: Int[np.ndarray, " n"], confidence: float
) -> KeptRatio:
    """The mean of the kept values over the mean of all, and its two factors: strata (layers), and the choice inside them.

    Values are at least 0. Intervals are of Student's t for the logarithm, with n_kept - 1 degrees of freedom and the delta method's
    standard error: that of the sum of `terms`, each value's linearised effect on the logarithm, drawn inside strata of fixed size. Nothing
    is random. Values are None where nothing is kept or all are 0, ends also where one is kept or the kept are all 0.
    """
    order = np.lexsort((is_kept, values, strata))
    values, kept, strata = values[order], is_kept[order].astype(np.float64), strata[order]
    n_kept, total, kept_total = kept.sum(), values.sum(), (kept * values).sum()
    if not n_kept or not total:
        return KeptRatio(*[Estimate(None, None)] * 3)
    _, group, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    means, shares = ((np.bincount(group, column) / sizes)[group] for column in (values, kept))
    expected = (kept * means).sum()  # n_kept times the mean of as many of each stratum at random
    of_all, of_expected = values / total, (kept * means + shares * values) / expected
    of_kept = kept * values / kept_total if kept_total else np.zeros_like(values)
    ratios = {
        "ratio": (kept_total / n_kept / values.mean(), of_kept - kept / n_kept - of_all),
        "mix": (expected / n_kept / values.mean(), of_expected - kept / n_kept - of_all),
        "within": (kept_total / expected, of_kept - of_expected),
    }
    return KeptRatio(**{name: _ratio_estimate(value, terms, group, n_kept, confidence) for name, (value, terms) in ratios.items()})


def within_difference(
    values: Float[np.ndarray, " n"], is_kept: Bool[np.ndarray, " n"], strata: Int[np.ndarray, " n"], confidence: float
) -> Estimate:
    """The mean of the kept values minus that of the others of the same stratum: the coefficient of `is_kept` in least squares with a mean
    for each stratum, so that strata count by n_kept * n_other / n. The interval is of Student's t with the standard error HC3 of MacKinnon
    and White (1985), which lets the spread differ. None where no stratum has both, the ends where nothing is left to tell the spread."""
    order = np.lexsort((is_kept, values, strata))
    _, group, sizes = np.unique(strata[order], return_inverse=True, return_counts=True)
    y, x = ((column - (np.bincount(group, column) / sizes)[group]) for column in (values[order], is_kept[order].astype(np.float64)))
    of_both = np.bincount(group, x**2) > 0  # strata that have kept ones and others
    square, df = float((x**2).sum()), int(sizes[of_both].sum() - of_both.sum() - 1)
    if not of_both.any():
        return Estimate(None, None)
    slope = float((x * y).sum() / square)
    leverage = 1 / sizes[group] + x**2 / square
    if df < 1:
        return Estimate(slope, None)
    telling = leverage < 1 - 1e-9  # a value that its own coefficient reproduces has no residual
    scores = x[telling] * (y - slope * x)[telling] / (1 - leverage[telling])
    reach = student_t(confidence, float(df)) * float(np.sqrt((scores**2).sum())) / square
    return Estimate(slope, Interval(slope - reach, slope + reach))


def _ratio_estimate(
    value: float, terms: Float[np.ndarray, " n"], strata: Int[np.ndarray, " n"], n_kept: float, confidence: float
) -> Estimate:
    """`terms` as in `ratio_interval`. n / (n - 1) twice: of each stratum, and of the kept, whose own mean is estimated too."""
    if value <= 0 or n_kept < 2:
        return Estimate(float(value), None)
    sizes = np.bincount(strata)
    centred = terms - (np.bincount(strata, terms) / sizes)[strata]
    variance = (np.bincount(strata, centred**2) * sizes / np.maximum(sizes - 1, 1)).sum() * n_kept / (n_kept - 1)
    reach = np.exp(student_t(confidence, n_kept - 1) * np.sqrt(variance))
    return Estimate(float(value), Interval(float(value / reach), float(value * reach)))


def student_t(confidence: float, df: float) -> float:
    """How many standard errors a two-sided interval of Student's t reaches."""
    from scipy.special import stdtrit  # its import takes longer than most jobs that need no interval

    return float(stdtrit(df, (1 + confidence) / 2))


def quantile_interval(draws: Float[np.ndarray, " draw"], confidence: float) -> Interval:
    """The central part of the draws that holds `confidence` of them."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def rank_correlation(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    strata: Int[np.ndarray, " n"],
    draws: int,
    confidence: float,
    stream: np.random.Generator,
) -> RankCorrelation:
    """Rank correlation of x and y inside strata (layers), pooled; with one stratum it is Spearman's rho.

    Ranks are taken inside each stratum, scaled by its size and centred, then correlated over all strata, so that differences
    between strata carry nothing. The bootstrap resamples inside strata.
    """
    order = np.lexsort((y, x, strata))
    x, y = x[order], y[order]
    edges = np.flatnonzero(np.diff(strata[order], prepend=-1, append=-1)) if len(x) else np.zeros(1, dtype=np.int64)
    rho = _pooled_rho(x[None], y[None], edges)[0]
    if not np.isfinite(rho):
        return RankCorrelation(len(x), None, None, None)
    if len(x) < 3:
        return RankCorrelation(len(x), float(rho), None, None)
    blocks = [_pooled_rho(x[picked], y[picked], edges) for picked in _picks_in_strata(edges, draws, stream)]
    resampled = np.concatenate(blocks)
    interval = quantile_interval(resampled[np.isfinite(resampled)], confidence)
    return RankCorrelation(len(x), float(rho), interval.low, interval.high)


def _resampled_means(values: Float[np.ndarray, " n"], draws: int, stream: np.random.Generator) -> Float[np.ndarray, " draw"]:
    ordered, edges = np.sort(values), np.array([0, len(values)])
    return np.concatenate([ordered[picked].mean(axis=1) for picked in _picks_in_strata(edges, draws, stream)])


def _picks_in_strata(edges: Int[np.ndarray, " edge"], draws: int, stream: np.random.Generator) -> Iterator[Int[np.ndarray, "block n"]]:
    """Resampled indices, some draws at a time."""
    pairs = list(pairwise(edges))
    for size in _block_sizes(draws, int(edges[-1])):
        yield np.concatenate([stream.integers(start, stop, size=(size, stop - start)) for start, stop in pairs], axis=1)


def _block_sizes(draws: int, n: int) -> list[int]:
    block = max(1, _BLOCK // max(n, 1))
    return [min(block, draws - done) for done in range(0, draws, block)]


def _pooled_rho(
    x: Float[np.ndarray, "draw n"], y: Float[np.ndarray, "draw n"], edges: Int[np.ndarray, " edge"]
) -> Float[np.ndarray, " draw"]:
    """NaN in draws where a side does not vary."""
    a, b = _centred_ranks(x, edges), _centred_ranks(y, edges)
    spread = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), spread, out=np.full(len(x), np.nan), where=spread > 0)


def _centred_ranks(values: Float[np.ndarray, "draw n"], edges: Int[np.ndarray, " edge"]) -> Float[np.ndarray, "draw n"]:
    from scipy.stats import rankdata  # its import takes longer than most jobs that need an interval only

    ranks = np.empty_like(values)
    for start, stop in pairwise(edges):
        n = stop - start
        ranks[:, start:stop] = (rankdata(values[:, start:stop], axis=1) - (n + 1) / 2) / n
    return ranks
