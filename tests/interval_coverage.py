"""How often intervals of a mean, a difference or a rank correlation cover, by simulation and on real scores drawn again, and how often a
comparison of all pairs of methods errs."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import rankdata

from saesteer.core.uncertainty import (
    RATINGS,
    SUCCESS,
    Interval,
    difference_interval,
    mean_interval,
    rank_correlation,
    ratio_interval,
)
from saesteer.methods.compare.means import p_all_pairs

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _rated(*shares: float) -> Draw:
    return lambda rng, size: rng.choice(3, size, p=shares).astype(float)


def _success(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return np.where(rng.random(size) < 0.6, 0, rng.binomial(20, 0.4, size)).astype(float)


POPULATIONS: dict[str, tuple[Draw, float, Interval | None]] = {
    "normal": (lambda rng, size: rng.standard_normal(size), 0.0, None),
    "exponential": (lambda rng, size: rng.standard_exponential(size), 1.0, None),
    "lognormal": (lambda rng, size: rng.lognormal(size=size), np.exp(0.5), None),
    "normal, a tenth 10 higher": (lambda rng, size: rng.standard_normal(size) + 10 * (rng.random(size) < 0.1), 1.0, None),
    "0 to .02, a tenth 1 higher": (lambda rng, size: 0.02 * rng.random(size) + (rng.random(size) < 0.1), 0.11, RATINGS),
    "2 x beta(.1, 5)": (lambda rng, size: 2 * rng.beta(0.1, 5, size), 0.2 / 5.1, RATINGS),
    "2 x beta(.2, 3)": (lambda rng, size: 2 * rng.beta(0.2, 3, size), 0.4 / 3.2, RATINGS),
    "0/1/2 with .7, .2, .1": (_rated(0.7, 0.2, 0.1), 0.4, RATINGS),
    "0/1/2 with .05, .15, .8": (_rated(0.05, 0.15, 0.8), 1.75, RATINGS),
    "0/1.33/2 with .1, .3, .6": (lambda rng, size: rng.choice([0, 4 / 3, 2], size, p=[0.1, 0.3, 0.6]), 1.6, RATINGS),
    "GenSuccess, 60 % of them 0": (_success, 3.2, SUCCESS),
}
"""Name -> draws of a size, their mean, their scale."""


def mean_coverage(name: str, n: int, worlds: int) -> float:
    """Share of `worlds` samples of n whose interval has the mean."""
    draw, mean, scale = POPULATIONS[name]
    return _covered([mean_interval(row, 0.95, scale) for row in draw(np.random.default_rng(n), (worlds, n))], mean)


def difference_coverage(name: str, n: int, m: int, worlds: int) -> float:
    """Share of `worlds` in which the interval of the difference of two groups of equal means has 0."""
    draw, _, scale = POPULATIONS[name]
    rng = np.random.default_rng(n)
    pairs = zip(draw(rng, (worlds, n)), draw(rng, (worlds, m)), strict=True)
    return _covered([difference_interval(a, b, 0.95, scale) for a, b in pairs], 0.0)


def method_scores(layer: int) -> np.ndarray:
    """[concept method]: real held-out scores of 49 methods for 16 concepts, means of three training seeds."""
    rows = pl.read_csv(Path(__file__).with_name("score_vectors.csv"), infer_schema_length=None).filter(layer=layer)
    return rows.drop("layer", "method").to_numpy().T


def pairs_of(values: np.ndarray) -> np.ndarray:
    """[concept pair]: the differences of all pairs of columns."""
    first, second = np.triu_indices(values.shape[1], 1)
    return values[:, first] - values[:, second]


def real_coverage(vectors: np.ndarray, n: int, worlds: int, scale: Interval) -> np.ndarray:
    """Of each column, as the whole population: the share of `worlds` samples of n whose interval has its mean."""
    rng = np.random.default_rng(n)
    drawn = ((column.mean(), column[rng.integers(0, len(column), (worlds, n))]) for column in vectors.T)
    return np.array([_covered([mean_interval(row, 0.95, scale) for row in samples], mean) for mean, samples in drawn])


def family_wise_error(scores: np.ndarray, worlds: int) -> float:
    """Share of `worlds` in which the sign test tells a pair apart though none differs: concepts of real scores drawn again, and each turned
    upside down at random, so that every method is as often above any other as below it."""
    rng, differences = np.random.default_rng(0), pairs_of(scores)
    n, n_pairs = differences.shape
    worlds_of_signs = (rng.choice([-1, 1], (n, 1)) * differences[rng.integers(0, n, n)] for _ in range(worlds))
    return float(np.mean([errs(world, n_pairs) for world in worlds_of_signs]))


def errs(differences: np.ndarray, n_pairs: int) -> bool:
    """Whether any pair is told apart."""
    return any(p is not None and p < 0.05 for p in (p_all_pairs(column, n_pairs) for column in differences.T))


def ratio_coverage(n: int, shares: Sequence[float], worlds: int) -> list[float]:
    """Shares of `worlds` that have the ratio, the mix and the part within: n features a layer, of which such shares are kept, exponential
    with mean 1.3 ** layer, twice that if kept; samples with fewer than 2 kept are left out."""
    rng, layers, of_layer = np.random.default_rng(n), np.repeat(np.arange(len(shares)), n), 1.3 ** np.arange(len(shares))
    kept = np.array(shares)
    means = of_layer * (1 + kept)
    of_kept, at_random, of_all = 2 * (kept * of_layer).sum() / kept.sum(), (kept * means).sum() / kept.sum(), means.mean()
    true, covered = (of_kept / of_all, at_random / of_all, of_kept / at_random), []
    for _ in range(worlds):
        is_kept = rng.random(len(layers)) < kept[layers]
        parts = ratio_interval(rng.exponential(of_layer[layers] * (1 + is_kept)), is_kept, layers, 0.95)
        known = [(part.interval, value) for part, value in zip(parts, true, strict=True) if part.interval is not None]
        covered.append([interval.low - 1e-9 <= value <= interval.high + 1e-9 for interval, value in known])
    return [float(share) for share in np.mean([shares for shares in covered if shares], axis=0)]


def rank_coverage(rho: float, n: int, worlds: int, layers: int = 1, tied: bool = False) -> float:
    """Share of `worlds` whose interval has the rank correlation of normal pairs of correlation rho, or of 0/1/2 against a skewed quantity,
    in so many equal layers."""
    rng = np.random.default_rng(n)

    def pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal(size)
        y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(size)
        return (np.exp(x), (y > 0.5).astype(float) + (y > 1.3)) if tied else (x, y)

    many = pairs(100_000)
    true = float(np.corrcoef(*(rankdata(side) for side in many))[0, 1])
    strata = np.repeat(np.arange(layers), n // layers)
    intervals = [rank_correlation(*pairs(n), strata, 0.95) for _ in range(worlds)]
    return _covered([Interval(of.low, of.high) for of in intervals if of.low is not None and of.high is not None], true)


def _covered(intervals: Sequence[Interval | None], true: float) -> float:
    ends = np.array([interval for interval in intervals if interval is not None])
    return float(((ends[:, 0] <= true + 1e-12) & (ends[:, 1] >= true - 1e-12)).mean())
