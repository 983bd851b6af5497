"""Methods side by side: means over concepts with bootstrap intervals, paired differences, costs, and how far each moves the residual.

The mean is over all concepts, where an abstaining method counts as the unsteered text; the mean over surviving concepts, which P1 (arXiv
2505.20063, table 1) reports, flatters a method that abstains often and stands beside it under that name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.core.tables.methods import METHOD_CURVES, METHOD_DIFFERENCES, METHODS_TABLE
from saesteer.core.uncertainty import bootstrap_mean_interval, paired_difference_interval, random_stream
from saesteer.methods.compare.protocol import FIT, Rows, row_of
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import Method

FAMILIES = ("Controls", "Prompt", "Trained weights", "Vectors", "SAE features", "Effects of steering")
_METHOD = ["layer", "method"]
_AT_CHOSEN = ("concept_rating", "instruction_rating", "fluency_rating")
_CURVES = ("score", *_AT_CHOSEN)
_BLOCK = 2**22  # elements drawn at a time: bounds memory for many concepts
_Row = dict[str, Any]


def family_of(row: Method) -> str:
    """Which kind of method a row of the registry is, by what it needs and how its strength is swept; one of FAMILIES."""
    if row.paper in ("baseline", "control"):
        return "Controls"
    if row.grid in ("prompt", "adapter"):
        return "Prompt" if row.grid == "prompt" else "Trained weights"
    if "effects" in row.needs:
        return "Effects of steering"
    return "SAE features" if "sae" in row.needs else "Vectors"


def methods_table(scores: pl.DataFrame, choices: pl.DataFrame, rows: Rows, settings: MethodSettings) -> pl.DataFrame:
    """METHOD_SCORES, METHOD_CHOICES, FITS and STEERED -> METHODS_TABLE."""
    lines = []
    for group in scores.sort(*FIT).partition_by(_METHOD, maintain_order=True):
        layer, key = group.select(_METHOD).row(0)
        label = {"layer": layer, "method": key, "title": row_of(key).title, "family": family_of(row_of(key)), "paper": row_of(key).paper}
        lines.append(label | _means(group, (layer, key), settings) | _at_chosen(group) | {"confidence": settings.confidence})
    parts = (_factors(choices), _fit_costs(rows.fits), _generation_costs(rows.steered))
    later = {name for part in parts for name in part.columns} - set(_METHOD)
    found = pl.DataFrame(lines, schema={name: dtype for name, dtype in METHODS_TABLE.schema.items() if name not in later})
    for part in parts:
        found = found.join(part, on=_METHOD, how="left")
    return found.select(list(METHODS_TABLE.columns)).sort(METHODS_TABLE.keys)


def _means(group: pl.DataFrame, label: tuple[int, str], settings: MethodSettings) -> _Row:
    own = group.filter(~pl.col("abstains"))
    every = _mean(group["score"], settings, ("mean", *label))
    surviving = _mean(own["score"], settings, ("mean", *label))
    return {
        "n_concepts": group.height,
        "n": group["score"].count(),
        "score": every[0],
        "score_low": every[1],
        "score_high": every[2],
        "n_abstaining": group.height - own.height,
        "n_surviving": own["score"].count(),
        "surviving_score": surviving[0],
        "surviving_low": surviving[1],
        "surviving_high": surviving[2],
    }


def _mean(values: pl.Series, settings: MethodSettings, label: tuple[str | int, ...]) -> tuple[float | None, float | None, float | None]:
    """Mean and interval of the values that are there; their order does not matter."""
    present = np.sort(values.drop_nulls().cast(pl.Float64).to_numpy())
    stream = random_stream(settings.seed, "methods", *label)
    low, high = bootstrap_mean_interval(present, settings.bootstrap_draws, settings.confidence, stream) or (None, None)
    return (float(present.mean()) if len(present) else None), low, high


def _at_chosen(group: pl.DataFrame) -> _Row:
    """What the method's own texts are like at the chosen factors, each concept counting once."""
    own = group.filter(~pl.col("abstains"))
    n_choices = int(own["n_choices"].sum())
    return {
        "n_texts": own["n"].sum(),
        "n_missing": own["n_missing"].sum(),
        **{name: own[name].mean() for name in _AT_CHOSEN},
        "perplexity": _geometric_mean(own["log_perplexity"]),
        "median_change": own["change"].median(),
        "median_relative_change": own["relative_change"].median(),
        "n_choices": n_choices,
        "share_at_grid_end": int(own["n_at_grid_end"].sum()) / n_choices if n_choices else None,
    }


def _geometric_mean(logarithms: pl.Series) -> float | None:
    present = logarithms.drop_nulls().to_numpy()
    return float(np.exp(present.mean())) if len(present) else None


def _factors(choices: pl.DataFrame) -> pl.DataFrame:
    """Median of the chosen factors over concepts and halves."""
    return choices.group_by(_METHOD).agg(pl.col("factor").cast(pl.Float64).median().alias("median_factor"))


def _fit_costs(fits: pl.DataFrame) -> pl.DataFrame:
    """What a fit takes, mean over concepts, those included where it abstained: it was tried."""
    columns = {"labelled_texts": pl.col("n_texts"), "fit_seconds": pl.col("fit_seconds"), "r2": pl.col("r2")}
    return fits.sort(FIT).group_by(_METHOD, maintain_order=True).agg(**{name: column.mean() for name, column in columns.items()})


def _generation_costs(steered: pl.DataFrame) -> pl.DataFrame:
    """Wall time over tokens of all texts that were generated."""
    tokens = pl.col("n_tokens").cast(pl.Float64).sum()
    generated = steered.filter(pl.col("text").is_not_null()).sort("layer", "method", "concept_id", "factor", "prefix_id", "sample")
    per_token = pl.when(tokens > 0).then(pl.col("seconds").sum() / tokens).alias("seconds_per_token")
    return generated.group_by(_METHOD, maintain_order=True).agg(per_token)


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
        for (a, b), both in zip(pairs, together, strict=True):
            rows.append({"layer": number, "method": a, "other": b} | _difference(values[a], values[b], (number, a, b), settings) | both)
    return pl.DataFrame(rows, schema=METHOD_DIFFERENCES.schema).sort(METHOD_DIFFERENCES.keys)


def _difference(
    a: Float[np.ndarray, " concept"], b: Float[np.ndarray, " concept"], label: tuple[int, str, str], settings: MethodSettings
) -> _Row:
    known = ~np.isnan(a - b)
    stream = random_stream(settings.seed, "methods", "difference", *label)
    interval = paired_difference_interval(a[known], b[known], settings.bootstrap_draws, settings.confidence, stream)
    low, high = interval or (None, None)
    return {"n": int(known.sum()), "mean": float((a - b)[known].mean()) if known.any() else None, "low": low, "high": high}


def _simultaneous(differences: list[Float[np.ndarray, " concept"]], settings: MethodSettings, layer: int) -> list[_Row]:
    """Intervals mean ± c x standard error that hold for all pairs at once with the confidence asked for (bootstrap of the largest |t|).

    Concepts are resampled together for all pairs, so that pairs' dependence is kept; c is that quantile, over draws, of the largest
    |resampled mean - mean| / standard error. Pairs that do not vary are left out of the largest. A normal-sized approximation: with few
    concepts it is somewhat too narrow, as the plain intervals are.
    """
    compared = [number for number, values in enumerate(differences) if np.isfinite(values).sum() > 1]
    ends: list[_Row] = [{"simultaneous_low": None, "simultaneous_high": None} for _ in differences]
    if not compared:
        return ends
    matrix = np.stack([differences[number] for number in compared], axis=1)  # [concept pair]
    known = np.isfinite(matrix)
    n = known.sum(axis=0)
    mean = np.where(known, matrix, 0).sum(axis=0) / n
    centred = np.where(known, matrix - mean, 0)
    error = np.sqrt((centred**2).sum(axis=0)) / n
    reach = np.quantile(_largest_t(centred, known, error, settings, layer), settings.confidence) * error
    for number, low, high in zip(compared, (mean - reach).tolist(), (mean + reach).tolist(), strict=True):
        ends[number] = {"simultaneous_low": low, "simultaneous_high": high}
    return ends


def _largest_t(
    centred: Float[np.ndarray, "concept pair"],
    known: np.ndarray,
    error: Float[np.ndarray, " pair"],
    settings: MethodSettings,
    layer: int,
) -> Float[np.ndarray, " draw"]:
    """Per draw of concepts the largest |t| of the pairs that vary; 0 where none does."""
    varies = error > 1e-12
    stream = random_stream(settings.seed, "methods", "simultaneous", layer)
    n, blocks, left = len(centred), [], settings.bootstrap_draws
    while left:
        size = min(left, max(1, _BLOCK // max(n, centred.shape[1])))
        weights = stream.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)  # how often each concept is drawn
        drawn = weights @ known[:, varies]
        sums = weights @ centred[:, varies]
        means = np.divide(sums, drawn, out=np.zeros_like(sums), where=drawn > 0)
        blocks.append((np.abs(means) / error[varies]).max(axis=1, initial=0.0))
        left -= size
    return np.concatenate(blocks)


def method_curves(halves: pl.DataFrame, choices: pl.DataFrame, methods: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """METHOD_HALVES, METHOD_CHOICES and METHODS_TABLE -> METHOD_CURVES: what each factor does, on all prompts, mean over concepts."""
    number = pl.col("factor").cast(pl.Float64)
    whole = halves.sort("layer", "method", "factor", "concept_id", "half").group_by([*_METHOD, "factor", "concept_id"], maintain_order=True)
    concepts = whole.agg(pl.col("n", "n_missing").sum(), pl.col(*_CURVES, "log_perplexity").mean())
    chosen = choices.drop_nulls("factor").group_by([*_METHOD, "factor"]).agg(pl.len().alias("n_chosen"))
    rows = []
    for group in concepts.partition_by([*_METHOD, "factor"], maintain_order=True):
        place = group.select(*_METHOD, "factor").row(0, named=True)
        sizes = {"n": group.height, "n_texts": group["n"].sum(), "n_missing": group["n_missing"].sum()}
        rows.append(place | sizes | _curve_point(group, tuple(place.values()), settings))
    found = pl.DataFrame(rows, schema={name: dtype for name, dtype in METHOD_CURVES.schema.items() if rows and name in rows[0]})
    named = methods.select(*_METHOD, "title", "family", "confidence", method_score="score")
    joined = found.join(chosen, on=[*_METHOD, "factor"], how="left").join(named, on=_METHOD, how="left")
    known = joined.with_columns(pl.col("n_chosen").fill_null(0).cast(pl.UInt32))
    return known.select(list(METHOD_CURVES.columns)).sort(*_METHOD, number)


def _curve_point(group: pl.DataFrame, label: tuple[str | int, ...], settings: MethodSettings) -> _Row:
    point: _Row = {}
    for name in _CURVES:
        point[name], point[f"{name}_low"], point[f"{name}_high"] = _mean(group[name], settings, ("curve", name, *label))
    return point | {"perplexity": _geometric_mean(group["log_perplexity"])}
