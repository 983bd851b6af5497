"""Filtering features by output score: what it gains, against removing as many at random, and against depth alone.

P1 (arXiv 2505.20063, section 4) keeps features whose output score reaches a threshold and compares with random removal, 10 draws.
Here the control has many draws and a band, and a permutation test inside layers asks whether the gain is more than the choice of
late layers: the measure is permuted among the features of each layer, which keeps every layer's share of kept features.

Draws are shared by all thresholds of a curve, so neighbouring points are compared on the same draws and adding a threshold
changes no other row.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from saesteer.analysis.tables import SELECTION
from saesteer.core.uncertainty import SCALES, interval_columns, mean_columns, quantile_interval, random_stream
from saesteer.settings import SelectionSettings

MEASURES = ("gen_success_20", "net_gen_success_20", "judge_score", "concept_rating", "fluency_rating")
LAYER_SETS = ("all", "late")
_PERMUTATION_BLOCK = 1000  # permutations held in memory at a time


def selection(outcomes: pl.DataFrame, settings: SelectionSettings) -> pl.DataFrame:
    """OUTCOMES -> SELECTION: a row for each rule, measure, set of layers and threshold."""
    rows = []
    for rule in outcomes["rule"].unique().sort():
        features = outcomes.filter(rule=rule).sort("layer", "feature")
        for layers in LAYER_SETS:
            chosen = features if layers == "all" else features.filter(pl.col("layer") >= settings.late_layers_from)
            for measure in MEASURES:
                label = {"rule": rule, "measure": measure, "layers": layers}
                rows += [label | row for row in _curve(chosen, measure, settings, tuple(label.values()))]
    return pl.DataFrame(rows, schema=SELECTION.schema)


def grid(settings: SelectionSettings) -> Float[np.ndarray, " threshold"]:
    """The thresholds, ascending: those of the settings, the headline's, and 0 (no filter)."""
    return np.unique([0.0, settings.headline_threshold, *settings.thresholds])


def _curve(features: pl.DataFrame, measure: str, settings: SelectionSettings, label: tuple[str, ...]) -> list[dict[str, Any]]:
    present = features.filter(pl.col(measure).is_not_null())
    values, scores = present[measure].to_numpy(), present["output_score"].to_numpy()
    thresholds = grid(settings)
    counts = (scores[None, :] >= thresholds[:, None]).sum(axis=1)
    removal = random_removal(values, counts, settings.random_draws, random_stream(settings.seed, "removal", *label))
    layers = present["layer"].cast(pl.Int64).to_numpy()
    stream = random_stream(settings.seed, "permutation", *label)
    p_values = p_within_layers(values, scores, layers, counts, settings.permutations, stream)
    rows = []
    for index, threshold in enumerate(thresholds.tolist()):
        kept = scores >= threshold
        sizes = {"n_features": len(values), "n_missing": len(features) - len(values), "n_kept": int(kept.sum())}
        means = mean_columns("mean", values[kept], settings, ends="", scale=SCALES[measure])
        means |= mean_columns("removed_mean", values[~kept], settings, ends="removed_", scale=SCALES[measure])
        if kept.any():
            band = quantile_interval(removal[index], settings.confidence)
            means |= interval_columns("random_mean", float(removal[index].mean()), band, ends="random_")
        rows.append({"threshold": threshold} | sizes | means | {"p_within_layers": p_values[index]})
    return rows


def random_removal(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, " threshold"], draws: int, stream: np.random.Generator
) -> Float[np.ndarray, "threshold draw"]:
    """Means over as many features as each threshold keeps, kept at random; NaN where it keeps none. A draw's sets are nested."""
    shuffled = stream.permuted(np.tile(values, (draws, 1)), axis=1)
    return _leading_sums(shuffled, counts).T / np.where(counts > 0, counts, np.nan)[:, None]


def p_within_layers(
    values: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    layers: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, " threshold"],
    permutations: int,
    stream: np.random.Generator,
) -> list[float | None]:
    """Two-sided p of the kept features' mean when values are permuted inside layers: the share of permutations, the observed one among
    them, whose sum over the kept is as far from its expectation, as many of each layer at random.

    `counts` is how many features each threshold keeps, those of highest score; features come sorted by layer. None where nothing is
    kept or nothing removed.
    """
    order = np.argsort(-scores, kind="stable")
    _, group, sizes = np.unique(layers, return_inverse=True, return_counts=True)
    expected = _leading_sums((np.bincount(group, values) / sizes)[group][order][None], counts)[0]
    observed = np.abs(_leading_sums(values[order][None], counts)[0] - expected)
    # The same sum in another order may differ in its last bits; it counts as as far.
    reached = observed - 1e-9 * (1 + observed)
    as_far = np.zeros(len(counts), dtype=np.int64)
    for done in range(0, permutations, _PERMUTATION_BLOCK):
        block = np.tile(values, (min(_PERMUTATION_BLOCK, permutations - done), 1))
        for layer in np.unique(layers):
            members = slice(*np.searchsorted(layers, [layer, layer + 1]))
            block[:, members] = stream.permuted(block[:, members], axis=1)
        as_far += (np.abs(_leading_sums(block[:, order], counts) - expected) >= reached).sum(axis=0)
    tested = (counts > 0) & (counts < len(values))
    return [(1 + int(hits)) / (1 + permutations) if test else None for hits, test in zip(as_far, tested, strict=True)]


def _leading_sums(rows: Float[np.ndarray, "row n"], counts: Int[np.ndarray, " threshold"]) -> Float[np.ndarray, "row threshold"]:
    """Sums of each row's first `count` values."""
    sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    return sums[:, counts]
