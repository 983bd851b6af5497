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
from jaxtyping import Float, Int

_BLOCK = 2**22  # elements drawn at a time: bounds memory for large feature sets


class Interval(NamedTuple):
    """An interval of a number."""

    low: float
    high: float


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
