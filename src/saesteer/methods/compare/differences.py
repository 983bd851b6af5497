"""Paired differences between methods, each pair's own interval and one that covers all pairs together."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from saesteer.analysis.best_factor import TIE
from saesteer.core.tables import METHOD_DIFFERENCES
from saesteer.core.uncertainty import RATINGS, SHARES, mean_columns, of_differences, random_stream, student_t
from saesteer.settings.methods import ProtocolSettings

POWER = 0.8
_BLOCK = 2**22  # elements at a time: bounds memory for many pairs

_Row = dict[str, Any]


def method_differences(scores: pl.DataFrame, settings: ProtocolSettings) -> pl.DataFrame:
    """METHOD_SCORES -> METHOD_DIFFERENCES: each pair of methods of a layer, paired by concept.

    Many pairs are compared: beside each pair's own interval stands one that covers all pairs of the layer together.
    """
    rows = []
    for layer in scores.sort("layer").partition_by("layer", maintain_order=True):
        keys = sorted(layer["method"].unique())
        table = layer.pivot(on="method", index="concept_id", values="score").sort("concept_id")
        values = {key: table[key].cast(pl.Float64).fill_null(np.nan).to_numpy() for key in keys}
        pairs = [(a, b) for number, a in enumerate(keys) for b in keys[number + 1 :]]
        number = int(layer["layer"][0])
        differences = np.stack([values[a] - values[b] for a, b in pairs], axis=1) if pairs else np.zeros((0, 0))
        for (a, b), together in zip(pairs, simultaneous(differences, settings, number), strict=True):
            alone = _difference(values[a], values[b], settings)
            if alone["low"] is not None:  # the wider of the two: only the pair alone knows the scale and skewness
                together = {
                    "simultaneous_low": min(alone["low"], together["simultaneous_low"]),
                    "simultaneous_high": max(alone["high"], together["simultaneous_high"]),
                }
            rows.append({"layer": number, "method": a, "other": b} | alone | together)
    return pl.DataFrame(rows, schema=METHOD_DIFFERENCES.schema).sort(METHOD_DIFFERENCES.keys)


def _difference(a: Float[np.ndarray, " concept"], b: Float[np.ndarray, " concept"], settings: ProtocolSettings) -> _Row:
    differences = (a - b)[~np.isnan(a - b)]
    mean = mean_columns("mean", differences, settings, ends="", scale=of_differences(RATINGS))
    win_rate = mean_columns("win_rate", wins(differences), settings, scale=SHARES)
    return {"n": len(differences), **mean, "detectable": detectable(differences, settings.confidence), **win_rate}


def wins(differences: Float[np.ndarray, "*concept"]) -> Float[np.ndarray, "*concept"]:
    """1 where a method scores above another, 0 where below, a half where they tie, NaN where one has no score. The mean over concepts is
    P4's win rate (arXiv 2501.17148, section 5.2: overall scores compared on each concept, ties 0.5 wins and 0.5 losses)."""
    return (1 + np.sign(np.where(np.abs(differences) <= TIE, 0.0, differences))) / 2


def detectable(differences: Float[np.ndarray, " concept"], confidence: float) -> float | None:
    """The true mean difference that a two-sided t test at 1 - confidence finds with probability about `POWER`, with as many concepts whose
    differences vary as these do: (t(1 - alpha / 2) + t(power)) times their standard error. None for fewer than 2."""
    n = len(differences)
    if n < 2:
        return None
    return (student_t(confidence, n - 1) + student_t(2 * POWER - 1, n - 1)) * float(differences.std(ddof=1)) / n**0.5


def simultaneous(differences: Float[np.ndarray, "concept pair"], settings: ProtocolSettings, layer: int) -> list[_Row]:
    """Intervals mean ± t x standard error that hold for all pairs at once with the settings' confidence; NaN where a concept is missing.

    The signs of the concepts' deviations from each pair's mean are flipped at random, a concept's together in all pairs, which keeps their
    dependence, and each pair is studentised by its flipped deviations' own spread. t is Student's at the level that the smallest p value of
    all pairs goes below in a share of 1 - confidence of the flips (Westfall and Young's minP, 1993). Pairs without spread, or of too few
    concepts for signs to tell at that level, have Bonferroni's share of it.
    """
    is_known = np.isfinite(differences)
    n = is_known.sum(axis=0)
    mean = np.divide(np.where(is_known, differences, 0).sum(axis=0), n, out=np.zeros(len(n)), where=n > 0)
    centred = np.where(is_known, differences - mean, 0)
    alpha, n_compared = 1 - settings.confidence, max(1, int((n > 1).sum()))
    error = np.sqrt((centred**2).sum(axis=0) / np.maximum(n * (n - 1), 1))
    is_flipped = (n > 1) & (error > 1e-12) & (2.0 ** (1 - n) <= alpha / n_compared)
    level = np.full(len(n), alpha / n_compared)
    if is_flipped.any():
        stream = random_stream(settings.seed, "methods", "simultaneous", layer)
        smallest = _smallest_p(centred[:, is_flipped], n[is_flipped], settings.bootstrap_draws, stream)
        level[is_flipped] = np.quantile(smallest, alpha * is_flipped.sum() / n_compared)
    rows: list[_Row] = []
    for number, pairs in enumerate(n):
        reach = student_t(1 - level[number], pairs - 1) * error[number] if pairs > 1 else None
        ends = (None, None) if reach is None else (float(mean[number] - reach), float(mean[number] + reach))
        rows.append({"simultaneous_low": ends[0], "simultaneous_high": ends[1]})
    return rows


def _smallest_p(
    centred: Float[np.ndarray, "concept pair"], n: Int[np.ndarray, " pair"], draws: int, stream: np.random.Generator
) -> Float[np.ndarray, " draw"]:
    """Per draw of signs the smallest two-sided p of Student's t."""
    from scipy.special import stdtr  # its import takes longer than most jobs that need no interval

    squares, smallest = (centred**2).sum(axis=0), np.ones(draws)
    size = max(1, _BLOCK // centred.shape[1])
    for done in range(0, draws, size):
        block = slice(done, min(done + size, draws))
        signs = stream.choice([-1.0, 1.0], size=(block.stop - done, len(centred)))
        means = signs @ centred / n
        t = np.abs(means) / np.sqrt(np.maximum(squares - n * means**2, 1e-300) / (n * (n - 1)))
        for of_size in np.unique(n):  # pairs of as many concepts: the largest t has the smallest p
            smallest[block] = np.minimum(smallest[block], 2 * stdtr(of_size - 1, -t[:, n == of_size].max(axis=1)))
    return smallest
