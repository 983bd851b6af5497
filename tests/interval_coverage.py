"""How often intervals of a mean, a difference or a rank correlation cover, by simulation and on real scores drawn again, and how often a
comparison of all pairs of methods errs: the tables in docs/tables/intervals.md are `python tests/interval_coverage.py`'s."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import stdtrit
from scipy.stats import rankdata

from saesteer.core.uncertainty import (
    FEWEST_WITHOUT_SCALE,
    RATINGS,
    SUCCESS,
    Interval,
    difference_interval,
    mean_interval,
    of_differences,
    quantile_interval,
    rank_correlation,
    ratio_interval,
    student_interval,
)
from saesteer.methods.compare.differences import p_all_pairs

Kind = Callable[[np.ndarray, Interval | None], Interval | None]
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
SIZES = (8, 16, 34)


def bootstrap(values: np.ndarray, scale: Interval | None) -> Interval:
    """The percentile bootstrap's."""
    drawn = np.random.default_rng(0).integers(0, len(values), (1000, len(values)))
    return quantile_interval(values[drawn].mean(axis=1), 0.95)


def skewed_t(values: np.ndarray, scale: Interval | None) -> Interval | None:
    """Student's t, corrected for skewness, whatever the scale."""
    return student_interval(values, 0.95)


def used(values: np.ndarray, scale: Interval | None) -> Interval | None:
    """What the package says."""
    return mean_interval(values, 0.95, scale)


KINDS = (bootstrap, skewed_t, used)


def mean_coverage(name: str, n: int, worlds: int, interval: Kind = used) -> tuple[float, float]:
    """(share of `worlds` samples of n whose interval has the mean, mean width)."""
    draw, mean, scale = POPULATIONS[name]
    return _covered([interval(row, scale) for row in draw(np.random.default_rng(n), (worlds, n))], mean)


def difference_coverage(name: str, n: int, m: int, worlds: int) -> tuple[float, float]:
    """The same of two groups of equal means."""
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


def real_coverage(vectors: np.ndarray, n: int, worlds: int, scale: Interval, interval: Kind = used) -> np.ndarray:
    """Of each column, as the whole population: the share of `worlds` samples of n whose interval has its mean."""
    rng = np.random.default_rng(n)
    drawn = ((column.mean(), column[rng.integers(0, len(column), (worlds, n))]) for column in vectors.T)
    return np.array([_covered([interval(row, scale) for row in samples], mean)[0] for mean, samples in drawn])


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


def family_wise_error_of_means(scores: np.ndarray, worlds: int) -> float:
    """Share of `worlds` in which Student's t at Bonferroni's level tells two means apart though all are equal: concepts drawn again."""
    rng, differences = np.random.default_rng(0), pairs_of(scores - scores.mean(axis=0))
    n, n_pairs = differences.shape
    limit, wrong = stdtrit(n - 1, 1 - 0.025 / n_pairs), 0
    for _ in range(worlds):
        drawn = differences[rng.integers(0, n, n)]
        wrong += bool((np.abs(drawn.mean(axis=0)) > limit * drawn.std(axis=0, ddof=1) / n**0.5 + 1e-9).any())
    return wrong / worlds


def ratio_coverage(n: int, shares: Sequence[float], worlds: int) -> list[float]:
    """Shares of `worlds` that have the ratio, the mix and the part within: n features a layer, of which such shares are kept, exponential
    with mean 1.3 ** layer, twice that if kept; samples with fewer than 2 kept are left out."""
    rng, layers, of_layer = np.random.default_rng(n), np.repeat(np.arange(len(shares)), n), 1.3 ** np.arange(len(shares))
    kept = np.array(shares)
    means = of_layer * (1 + kept)
    of_kept, at_random, of_all = 2 * (kept * of_layer).sum() / kept.sum(), (kept * means).sum() / kept.sum(), means.mean()
    true, found = (of_kept / of_all, at_random / of_all, of_kept / at_random), []
    for _ in range(worlds):
        is_kept = rng.random(len(layers)) < kept[layers]
        parts = ratio_interval(rng.exponential(of_layer[layers] * (1 + is_kept)), is_kept, layers, 0.95)
        ends = [part.interval for part in parts]
        found.append(
            [
                interval.low - 1e-9 <= value <= interval.high + 1e-9
                for interval, value in zip(ends, true, strict=True)
                if interval is not None
            ]
        )
    return [float(share) for share in np.mean([held for held in found if held], axis=0)]


def rank_coverage(rho: float, n: int, worlds: int, layers: int = 1, tied: bool = False) -> tuple[float, float]:
    """The same of rank correlations of normal pairs of correlation rho, or of 0/1/2 against a skewed quantity, in so many equal layers."""
    rng = np.random.default_rng(n)

    def pairs(size: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal(size)
        y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(size)
        return (np.exp(x), (y > 0.5).astype(float) + (y > 1.3)) if tied else (x, y)

    many = pairs(100_000)
    true = float(np.corrcoef(*(rankdata(side) for side in many))[0, 1])
    strata = np.repeat(np.arange(layers), n // layers)
    found = [rank_correlation(*pairs(n), strata, 0.95) for _ in range(worlds)]
    return _covered([Interval(of.low, of.high) for of in found if of.low is not None and of.high is not None], true)


def _covered(intervals: Sequence[Interval | None], true: float) -> tuple[float, float]:
    ends = np.array([interval for interval in intervals if interval is not None])
    return float(((ends[:, 0] <= true + 1e-12) & (ends[:, 1] >= true - 1e-12)).mean()), float((ends[:, 1] - ends[:, 0]).mean())


def _cell(name: str, n: int, kind: Kind) -> str:
    if kind is used and POPULATIONS[name][2] is None and n < FEWEST_WITHOUT_SCALE:
        return "–"
    covered, width = mean_coverage(name, n, 2000, kind)
    return f"{covered:.3f} ({width:.2f})"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Write the tables."""
    heads = " | ".join(f"{n}: {name}" for n in SIZES for name in ("bootstrap", "t", "used"))
    _say(f"| mean of n values | {heads} |\n|{'---|' * 10}")
    for name in POPULATIONS:
        _say(f"| {name} | " + " | ".join(_cell(name, n, kind) for n in SIZES for kind in KINDS) + " |")
    for layer in (3, 6):
        scores = method_scores(layer)
        for what, vectors, scale in (("methods", scores, RATINGS), ("pairs", pairs_of(scores)[:, ::12], of_differences(RATINGS))):
            shares = [real_coverage(vectors, n, 300, scale, kind) for n in SIZES for kind in KINDS]
            _say(f"| {what}, layer {layer} | " + " | ".join(f"{of.mean():.3f}, {of.min():.2f}" for of in shares) + " |")
        by_means, by_signs = family_wise_error_of_means(scores, 2000), family_wise_error(scores, 2000)
        _say(f"family-wise error, layer {layer}: t with Bonferroni {by_means:.3f}, sign test {by_signs:.4f}")
    _say("\n| other | covers (width) |\n|---|---|")
    for name, (*_, scale) in POPULATIONS.items():
        m, n = (4, 13) if scale else (30, 34)
        covered, width = difference_coverage(name, m, n, 2000)
        _say(f"| difference of groups of {m} and {n}, {name} | {covered:.3f} ({width:.2f}) |")
    for n, layers in ((10, 1), (17, 1), (40, 1), (120, 1), (120, 5)):
        for rho, tied in ((0.0, False), (0.5, False), (0.0, True), (0.5, True)):
            covered, width = rank_coverage(rho, n, 2000, layers, tied)
            kind = "0/1/2 against skewed" if tied else "normal"
            _say(f"| rank correlation, n = {n} in {layers} layers, {kind}, rho {rho} | {covered:.3f} ({width:.2f}) |")


if __name__ == "__main__":
    main()
