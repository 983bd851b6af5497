"""How often intervals of a mean, a difference or a rank correlation cover, by simulation: the table in
docs/tables/intervals.md is `python tests/interval_coverage.py`'s."""

import sys
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from saesteer.core.uncertainty import (
    RATINGS,
    SUCCESS,
    Interval,
    difference_interval,
    mean_interval,
    quantile_interval,
    rank_correlation,
    ratio_interval,
)

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _rated(*shares: float) -> Draw:
    return lambda rng, size: rng.choice(3, size, p=shares).astype(float)


def _success(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    return np.where(rng.random(size) < 0.6, 0, rng.binomial(20, 0.4, size)).astype(float)


POPULATIONS: dict[str, tuple[Draw, float, Interval | None]] = {
    "normal": (lambda rng, size: rng.standard_normal(size), 0.0, None),
    "exponential": (lambda rng, size: rng.standard_exponential(size), 1.0, None),
    "0/1/2 with .7, .2, .1": (_rated(0.7, 0.2, 0.1), 0.4, RATINGS),
    "0/1/2 with .05, .15, .8": (_rated(0.05, 0.15, 0.8), 1.75, RATINGS),
    "0/1.33/2 with .1, .3, .6": (lambda rng, size: rng.choice([0, 4 / 3, 2], size, p=[0.1, 0.3, 0.6]), 1.6, RATINGS),
    "GenSuccess, 60 % of them 0": (_success, 3.2, SUCCESS),
}
"""Name -> draws of a size, their mean, their scale."""


def percentile(values: np.ndarray, rng: np.random.Generator) -> Interval:
    """What stood here before."""
    return quantile_interval(values[rng.integers(0, len(values), (1000, len(values)))].mean(axis=1), 0.95)


def mean_coverage(name: str, n: int, worlds: int, before: bool = False) -> tuple[float, float]:
    """(share of `worlds` samples of n whose interval has the mean, mean width)."""
    draw, mean, scale = POPULATIONS[name]
    rng = np.random.default_rng(n)
    intervals = [percentile(row, rng) if before else mean_interval(row, 0.95, scale) for row in draw(rng, (worlds, n))]
    return _covered(intervals, mean)


def difference_coverage(name: str, n: int, m: int, worlds: int) -> tuple[float, float]:
    """The same of two groups of equal means."""
    draw, _, scale = POPULATIONS[name]
    rng = np.random.default_rng(n)
    pairs = zip(draw(rng, (worlds, n)), draw(rng, (worlds, m)), strict=True)
    return _covered([difference_interval(a, b, 0.95, scale) for a, b in pairs], 0.0)


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


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Write the table."""
    _say("| mean of n values | 8: before | now | 16: before | now | 34: before | now |\n|---|---|---|---|---|---|---|")
    for name in POPULATIONS:
        cells = [mean_coverage(name, n, 4000, before) for n in (8, 16, 34) for before in (True, False)]
        _say(f"| {name} | " + " | ".join(f"{covered:.3f} ({width:.2f})" for covered, width in cells) + " |")
    _say("\n| other | covers (width) |\n|---|---|")
    for name in POPULATIONS:
        covered, width = difference_coverage(name, 4, 13, 4000)
        _say(f"| difference of groups of 4 and 13, {name} | {covered:.3f} ({width:.2f}) |")
    for n, layers in ((10, 1), (17, 1), (40, 1), (120, 1), (120, 5)):
        for rho, tied in ((0.0, False), (0.5, False), (0.0, True), (0.5, True)):
            covered, width = rank_coverage(rho, n, 2000, layers, tied)
            kind = "0/1/2 against skewed" if tied else "normal"
            _say(f"| rank correlation, n = {n} in {layers} layers, {kind}, rho {rho} | {covered:.3f} ({width:.2f}) |")


if __name__ == "__main__":
    main()
