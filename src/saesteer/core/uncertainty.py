"""Intervals of every number that is reported, by formulas that cover by simulation what they say (docs/tables/intervals.md).

Percentile bootstrap intervals of a mean cover 80 to 93 % of the time for 95 % said, with 8 to 34 values. Means, differences and ratios of
means and rank correlations have closed forms of Student's t instead, corrected for skewness, and on a scale for what few values cannot
say of it; other numbers have percentiles of a bootstrap that are widened for the size of the sample. Results depend on the values (and the
stream) only, not on the order in which the values come.
"""

import hashlib
from math import hypot, sqrt
from typing import Any, NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Bool, Float, Int


class Interval(NamedTuple):
    """An interval of a number."""

    low: float
    high: float


RATINGS, SUCCESS = Interval(0.0, 2.0), Interval(0.0, 20.0)
"""Scales of judges' ratings and scores, and of GenSuccess@20."""
SHARES = Interval(0.0, 1.0)
"""The scale of shares: win rates, AUROC."""


def of_differences(scale: Interval) -> Interval:
    """The scale of differences of two values of a scale."""
    return Interval(scale.low - scale.high, scale.high - scale.low)


SCALES = {
    "gen_success_20": SUCCESS,
    "net_gen_success_20": of_differences(SUCCESS),
    **dict.fromkeys(("judge_score", "concept_rating", "fluency_rating"), RATINGS),
}
"""Measure -> its scale."""


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


def random_stream(seed: int, *label: str | int | float) -> np.random.Generator:
    """A stream of random numbers of its own for each seed and label, by SHA-256, so that no stream depends on what else is computed."""
    digest = hashlib.sha256("/".join(str(part) for part in (seed, *label)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(np.frombuffer(digest, dtype="<u4").tolist()))


FEWEST = 8
"""As many values on a scale say by their spread how far their mean may lie; of fewer the scale alone does."""
FEWEST_WITHOUT_SCALE = 30
"""As many values on no scale have an interval of their mean: where a tenth of all lies far out, fewer often hold none of that tenth."""
_NARROW = 1 / 40  # of a scale: values as near to one another say nothing of the rest of it


def mean_interval(values: Float[np.ndarray, " n"], confidence: float, scale: Interval | None = None) -> Interval | None:
    """Interval of the mean of n values, which are drawn from those of a known scale or of none; None for fewer than 2, on no scale for
    fewer than `FEWEST_WITHOUT_SCALE`.

    On a scale each end is `student_interval`'s or, where that is nearer, Gaffke's bound, which needs no distribution but the end of the
    scale. Of fewer than `FEWEST` values, and where more than alpha / 2 of bootstrap samples would hold values of one fortieth of the scale
    only, no spread says how far the mean may lie, and Gaffke's bound alone does.
    """
    n, tail = len(values), (1 - confidence) / 2
    if scale is None:
        return student_interval(values, confidence) if n >= FEWEST_WITHOUT_SCALE else None
    if n < 2:
        return None
    ordered = np.sort(values)
    together = np.searchsorted(ordered, ordered + _NARROW * (scale.high - scale.low) + 1e-9, "right") - np.arange(n)
    tells = n >= FEWEST and (together.max() / n) ** n <= tail
    low, high = (student_interval(ordered, confidence) if tells else None) or scale
    below, above = gaffke_bound(ordered, scale.low, low, tail), gaffke_bound(-ordered, -scale.high, -high, tail)
    return Interval(below, -above)


def student_interval(values: Float[np.ndarray, " n"], confidence: float) -> Interval | None:
    """Interval of the mean of n values whose population has no rare and distant ones; None for fewer than 2.

    Each end is the further of Student's t and of t corrected for skewness by Hall's cubic transformation (J. R. Stat. Soc. B 54, 1992,
    p. 221) with the sample's skewness G1. Values that are all equal have an interval without width.
    """
    n = len(values)
    if n < 2:
        return None
    ordered = np.sort(values)
    mean, spread = float(ordered.mean()), float(ordered.std(ddof=1)) if ordered[0] != ordered[-1] else 0.0
    error, t = spread / sqrt(n), student_t(confidence, n - 1)
    low, high = mean - t * error, mean + t * error
    if spread and n > 2:
        skewness = float(((ordered - mean) ** 3).sum()) * n / ((n - 1) * (n - 2) * spread**3) / sqrt(n)  # of the mean
        low, high = min(low, mean - error * _corrected(t, skewness)), max(high, mean - error * _corrected(-t, skewness))
    return Interval(low, high)


def gaffke_bound(values: Float[np.ndarray, " n"], end: float, low: float, tail: float) -> float:
    """The lower bound of a mean of values that are nowhere below `end`, or `low` where that is higher: what the mean of the n values and
    `end`, with weights that are uniform over all that sum to 1, is below with probability `tail` (Gaffke 2005; Learned-Miller and Thomas,
    arXiv 1905.06208). Of values at the two ends of a scale it is Clopper and Pearson's.

    The weights are standard exponential variables G_i over their sum, so the probability that their mean of x is below t is that of
    sum G_i (x_i - t) < 0, by Imhof's inversion of its characteristic function (Biometrika 48, 1961, p. 419).
    """
    low, high = max(low, end), float(values.mean())
    if high - end < 1e-9:
        return end
    points = np.append(values, end)
    if low > end and _share_below(points, low) >= tail:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_below(points, middle) < tail else (low, middle)
    return low


_HALVINGS = 22  # to 3e-7 of the distance from the mean
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_U = (1 + _NODES) / (1 - _NODES)  # from 0 to infinity
_DU = _WEIGHTS * 2 / (1 - _NODES) ** 2


def _share_below(points: Float[np.ndarray, " n"], t: float) -> float:
    """Probability that the mean of the points, with weights that are uniform over all that sum to 1, is below t."""
    above = points - t
    factors = np.empty((len(points), len(_U)), dtype=np.complex128)
    factors.real, factors.imag = 1, np.outer(above / np.sqrt((above**2).sum()), -_U)
    # Complex division takes most of the time: one for 64 points, whose product is far from the largest number there is.
    products = np.multiply.reduceat(factors, range(0, len(points), 64), axis=0)
    return 0.5 - float((_DU * np.prod(1 / products, axis=0).imag / _U).sum()) / np.pi


def _corrected(t: float, skewness: float) -> float:
    """Where T + a T^2 / 3 + a^2 T^3 / 27 + a / 6 is t: the inverse of Hall's transformation of a studentised mean of skewness a."""
    return t if abs(skewness) < 1e-6 else 3 / skewness * (float(np.cbrt(1 + skewness * (t - skewness / 6))) - 1)


def mean_columns(
    name: str, values: Float[np.ndarray, " n"], confidence: float, ends: str | None = None, scale: Interval | None = None
) -> dict[str, float | None]:
    """The mean of n values with its interval, as `interval_columns`; null where there are no values, the ends where that
    has no interval."""
    interval = mean_interval(values, confidence, scale)
    return interval_columns(name, float(values.mean()) if len(values) else None, interval, ends)


def interval_columns(name: str, value: float | None, interval: Interval | None, ends: str | None = None) -> dict[str, float | None]:
    """A value with its interval as columns NAME, NAME_low and NAME_high of a table; `ends` is what the names of the ends begin with,
    where that is not NAME_."""
    low, high = interval or (None, None)
    begin = f"{name}_" if ends is None else ends
    return {name: value, f"{begin}low": low, f"{begin}high": high}


def difference_interval(
    a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"], confidence: float, scale: Interval | None = None
) -> Interval | None:
    """Interval of mean(a) - mean(b) of two groups of different features; None if either has no interval of its own.

    Each end is as far as the root of the sum of squares of how far the groups' own ends are (Zou and Donner, Stat. Med. 27, 2008, p. 1693):
    Welch's interval, had each group many values.
    """
    first, second = mean_interval(a, confidence, scale), mean_interval(b, confidence, scale)
    if first is None or second is None:
        return None
    m, n = float(np.sort(a).mean()), float(np.sort(b).mean())
    return Interval(m - n - hypot(m - first.low, second.high - n), m - n + hypot(first.high - m, n - second.low))


def ratio_interval(
    values: Float[np.ndarray, " n"], is_kept: Bool[np.ndarray, " n"], strata: Int[np.ndarray, " n"], confidence: float
) -> KeptRatio:
    """The mean of the kept values over the mean of all, and its two factors: strata (layers), and the choice inside them.

    Intervals are of Student's t for the logarithm, with n_kept - 1 degrees of freedom and the delta method's standard error: that of the
    sum of `terms`, each value's linearised effect on the logarithm, drawn inside strata of fixed size. Nothing is random. Ratios are None
    where nothing is kept or a mean that is divided by is not above 0, ends also where one is kept or the ratio is not above 0.
    """
    order = np.lexsort((is_kept, values, strata))
    values, kept, strata = values[order], is_kept[order].astype(np.float64), strata[order]
    n_kept, total, kept_total = kept.sum(), values.sum(), (kept * values).sum()
    _, group, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    means, shares = ((np.bincount(group, column) / sizes)[group] for column in (values, kept))
    expected = (kept * means).sum()  # n_kept times the mean of as many of each stratum at random
    if not n_kept or min(total, expected) <= 0:
        return KeptRatio(*[Estimate(None, None)] * 3)
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
    variance = variance_inside(terms, strata, np.bincount(strata)) * n_kept / (n_kept - 1)
    reach = np.exp(student_t(confidence, n_kept - 1) * np.sqrt(variance))
    return Estimate(float(value), Interval(float(value / reach), float(value * reach)))


def student_t(confidence: float, df: SupportsFloat) -> float:
    """How many standard errors a two-sided interval of Student's t reaches."""
    from scipy.special import stdtrit  # its import takes longer than most jobs that need no interval

    return float(stdtrit(float(df), (1 + confidence) / 2))


def resampled_interval(draws: Float[np.ndarray, " draw"], n: int, confidence: float) -> Interval:
    """Percentile bootstrap interval of a number of n units, with percentiles further out, as far as those of a normal distribution that
    reach what Student's t does: Hesterberg's expanded percentile interval (Am. Stat. 69, 2015, p. 379)."""
    from scipy.special import ndtr  # as `student_t`

    return quantile_interval(draws, 1 - 2 * float(ndtr(-sqrt(n / (n - 1)) * student_t(confidence, n - 1))))


def quantile_interval(draws: Float[np.ndarray, " draw"], confidence: float) -> Interval:
    """The central part of the draws that holds `confidence` of them."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def rank_correlation(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], strata: Int[np.ndarray, " n"], confidence: float
) -> RankCorrelation:
    """Rank correlation of x and y inside strata (layers), pooled; with one stratum it is Spearman's rho.

    Ranks are taken inside each stratum, scaled by its size and centred, then correlated over all strata, so that differences
    between strata carry nothing. The interval is of Student's t for Fisher's z with n - (strata) - 2 degrees of freedom. Its standard error
    is the larger of Bonett and Wright's (Psychometrika 65, 2000, p. 23), which holds for pairs that are about normal, and of the
    infinitesimal jackknife inside strata, which needs no distribution but pairs that vary.
    """
    order = np.lexsort((y, x, strata))
    x, y = x[order], y[order]
    _, group, sizes = np.unique(strata[order], return_inverse=True, return_counts=True)
    a, b = (_centred_ranks(side, sizes) for side in (x, y))
    spread = sqrt(float((a * a).sum() * (b * b).sum()))
    if not spread:
        return RankCorrelation(len(x), None, None, None)
    n, rho, df = len(x), float((a * b).sum()) / spread, len(x) - len(sizes) - 2
    if df < 1:
        return RankCorrelation(n, rho, None, None)
    inside = min(max(rho, -1 + 6 / (n**3 - n)), 1 - 6 / (n**3 - n))  # no z is infinite: half the last step of rho from 1
    terms = _influence(x, y, a, b, sizes)
    jackknife = sqrt(float(variance_inside(terms, group, sizes)) * n / df) / (1 - inside**2)
    reach = student_t(confidence, df) * max(jackknife, sqrt((1 + rho**2 / 2) / df))
    low, high = np.tanh([np.arctanh(inside) - reach, np.arctanh(inside) + reach])
    return RankCorrelation(n, rho, min(float(low), rho), max(float(high), rho))


def variance_inside(terms: Float[np.ndarray, " n"], strata: Int[np.ndarray, " n"], sizes: Int[np.ndarray, " stratum"]) -> np.floating[Any]:
    """Variance of the sum of terms that are drawn inside strata of fixed size: each stratum's n times its variance."""
    centred = terms - (np.bincount(strata, terms) / sizes)[strata]
    variance: np.floating[Any] = (np.bincount(strata, centred**2) * sizes / np.maximum(sizes - 1, 1)).sum()
    return variance


def _influence(
    x: Float[np.ndarray, " n"],
    y: Float[np.ndarray, " n"],
    a: Float[np.ndarray, " n"],
    b: Float[np.ndarray, " n"],
    sizes: Int[np.ndarray, " stratum"],
) -> Float[np.ndarray, " n"]:
    """The derivative of rho by each pair's weight, but for a constant of each stratum; a and b are the centred ranks of x and y.

    A pair has its own product of ranks, and lifts the ranks of those above it (those equal by half) in their products.
    """
    ab, aa, bb = a * b, a * a, b * b
    lifted = []
    for values, ranks in ((x, b), (y, a), (x, a), (y, b)):
        lifted.append(np.concatenate([_above(v, r) / len(v) for v, r in zip(_split(values, sizes), _split(ranks, sizes), strict=True)]))
    rho = ab.sum() / sqrt(aa.sum() * bb.sum())
    products = (ab + lifted[0] + lifted[1]) / sqrt(aa.sum() * bb.sum())
    influence: Float[np.ndarray, " n"] = products - rho / 2 * ((aa + 2 * lifted[2]) / aa.sum() + (bb + 2 * lifted[3]) / bb.sum())
    return influence


def _above(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Sum of the weights of those with larger values, and half of those with equal ones."""
    _, place = np.unique(values, return_inverse=True)
    sums = np.bincount(place, weights)
    above: Float[np.ndarray, " n"] = (sums[::-1].cumsum()[::-1] - sums / 2)[place]
    return above


def _split(values: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " stratum"]) -> list[Float[np.ndarray, " size"]]:
    return np.split(values, np.cumsum(sizes)[:-1])


def _centred_ranks(values: Float[np.ndarray, " n"], sizes: Int[np.ndarray, " stratum"]) -> Float[np.ndarray, " n"]:
    from scipy.stats import rankdata  # its import takes longer than most jobs that need an interval only

    ranks = [(rankdata(part) - (len(part) + 1) / 2) / len(part) for part in _split(values, sizes)]
    return np.concatenate(ranks) if ranks else values
