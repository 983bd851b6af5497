"""Paired differences between methods, each pair's own interval and one that covers all pairs together."""

from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.core.tables import METHOD_DIFFERENCES
from saesteer.core.uncertainty import mean_columns, random_stream
from saesteer.methods.compare.ranks import drawn_concepts
from saesteer.settings.methods import MethodSettings

POWER = 0.8

_Row = dict[str, Any]


def method_differences(scores: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
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
        together = _simultaneous([values[a] - values[b] for a, b in pairs], settings, number)
        for (a, b), of_pair in zip(pairs, together, strict=True):
            rows.append({"layer": number, "method": a, "other": b} | _difference(values[a], values[b], (number, a, b), settings) | of_pair)
    return pl.DataFrame(rows, schema=METHOD_DIFFERENCES.schema).sort(METHOD_DIFFERENCES.keys)


def _difference(
    a: Float[np.ndarray, " concept"], b: Float[np.ndarray, " concept"], label: tuple[int, str, str], settings: MethodSettings
) -> _Row:
    differences = (a - b)[~np.isnan(a - b)]
    mean = mean_columns("mean", differences, settings, random_stream(settings.seed, "methods", "difference", *label), ends="")
    return {"n": len(differences), **mean, "detectable": detectable(differences, settings.confidence)}


def detectable(differences: Float[np.ndarray, " concept"], confidence: float) -> float | None:
    """The true mean difference that a two-sided test at 1 - confidence finds with probability `POWER`, with as many concepts whose
    differences vary as these do: (z(1 - alpha / 2) + z(power)) times their standard error, as if means were normal. None for fewer than
    2."""
    if len(differences) < 2:
        return None
    normal = NormalDist()
    return (normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(POWER)) * float(differences.std(ddof=1)) / len(differences) ** 0.5


def _simultaneous(differences: list[Float[np.ndarray, " concept"]], settings: MethodSettings, layer: int) -> list[_Row]:
    """Intervals mean ± c x standard error that hold for all pairs at once with the settings' confidence (bootstrap of the largest |t|).

    Concepts are resampled together for all pairs, so that pairs' dependence is kept; c is that quantile, over draws, of the largest
    |resampled mean - mean| / standard error. Pairs that do not vary are left out of the largest. A normal-sized approximation: with few
    concepts it is somewhat too narrow, as the plain intervals are.
    """
    compared = [number for number, values in enumerate(differences) if np.isfinite(values).sum() > 1]
    ends: list[_Row] = [{"simultaneous_low": None, "simultaneous_high": None} for _ in differences]
    if not compared:
        return ends
    matrix = np.stack([differences[number] for number in compared], axis=1)  # [concept pair]
    is_known = np.isfinite(matrix)
    n = is_known.sum(axis=0)
    mean = np.where(is_known, matrix, 0).sum(axis=0) / n
    centred = np.where(is_known, matrix - mean, 0)
    error = np.sqrt((centred**2).sum(axis=0)) / n
    reach = np.quantile(_largest_t(centred, is_known, error, settings, layer), settings.confidence) * error
    for number, low, high in zip(compared, (mean - reach).tolist(), (mean + reach).tolist(), strict=True):
        ends[number] = {"simultaneous_low": low, "simultaneous_high": high}
    return ends


def _largest_t(
    centred: Float[np.ndarray, "concept pair"],
    is_known: np.ndarray,
    error: Float[np.ndarray, " pair"],
    settings: MethodSettings,
    layer: int,
) -> Float[np.ndarray, " draw"]:
    """Per draw of concepts the largest |t| of the pairs that vary; 0 where none does."""
    varies = error > 1e-12
    stream = random_stream(settings.seed, "methods", "simultaneous", layer)
    blocks = []
    for weights in drawn_concepts(len(centred), settings.bootstrap_draws, max(centred.shape), stream):
        drawn = weights @ is_known[:, varies]
        sums = weights @ centred[:, varies]
        means = np.divide(sums, drawn, out=np.zeros_like(sums), where=drawn > 0)
        blocks.append((np.abs(means) / error[varies]).max(axis=1, initial=0.0))
    return np.concatenate(blocks)
