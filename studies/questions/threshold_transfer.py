"""Whether a threshold of the output score that is best where it was chosen is as good elsewhere.

A threshold's gain is the mean of a measure over the features that it keeps less the mean over all. The best of a grid is taken from among
the thresholds that keep at least `SMALLEST_SHARE` of the features, and tried on features that it was not chosen on: on the other half of
each layer's, over many random halvings, and on another layer's.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.selection import grid
from saesteer.core.uncertainty import Interval, interval_columns, quantile_interval, random_stream, resampled_interval
from saesteer.settings import SelectionSettings
from studies.questions.headline_samples import MEASURES
from studies.questions.tables import THRESHOLD_TRANSFER

SMALLEST_SHARE = 0.05
HALVINGS = 500
HALVES = ("half", "rest")


def threshold_transfer(outcomes: pl.DataFrame, rule: str, settings: SelectionSettings) -> pl.DataFrame:
    """OUTCOMES -> THRESHOLD_TRANSFER."""
    lines = []
    for measure in MEASURES:
        layers = _by_layer(outcomes, rule, measure)
        lines += [{"measure": measure} | line for line in (*_halves(layers, measure, settings), *_layers(layers, measure, settings))]
    return pl.DataFrame(lines, schema=THRESHOLD_TRANSFER.schema).sort(THRESHOLD_TRANSFER.keys)


_Layers = dict[int, tuple[np.ndarray, np.ndarray]]


def _by_layer(outcomes: pl.DataFrame, rule: str, measure: str) -> _Layers:
    """Layer -> the measure and the output score of its features."""
    rows = outcomes.filter(rule=rule).drop_nulls(measure).sort("layer", "feature")
    return {
        int(layer_rows["layer"][0]): (layer_rows[measure].to_numpy(), layer_rows["output_score"].to_numpy())
        for layer_rows in rows.partition_by("layer", maintain_order=True)
    }


def _gains(
    values: Float[np.ndarray, "draw n"], scores: Float[np.ndarray, "draw n"], thresholds: Float[np.ndarray, " threshold"]
) -> tuple[np.ndarray, np.ndarray]:
    """How many features each threshold keeps, and its gain; NaN where it keeps none."""
    is_kept = np.stack([scores >= threshold for threshold in thresholds], axis=1)  # [draw threshold n]
    n_kept = is_kept.sum(axis=2)
    sums = (is_kept * values[:, None]).sum(axis=2)
    return n_kept, np.divide(sums, n_kept, out=np.full(sums.shape, np.nan), where=n_kept > 0) - values.mean(axis=1, keepdims=True)


def _best(values: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
    """The threshold of largest gain, the smallest of equals, among those that keep enough; and its gain."""
    n_kept, gains = (row[0] for row in _gains(values[None], scores[None], thresholds))
    place = int(np.where(n_kept >= max(1, SMALLEST_SHARE * len(values)), gains, -np.inf).argmax())
    return float(thresholds[place]), float(gains[place])


def _halves(layers: _Layers, measure: str, settings: SelectionSettings) -> Iterator[dict[str, Any]]:
    """Chosen on a random half of each layer's features, tried on the rest."""
    if any(len(values) < 4 for values, _ in layers.values()) or not layers:
        return
    stream, rows = random_stream(settings.seed, "halvings", measure), []
    for _ in range(HALVINGS):
        split = [(pair, stream.permutation(len(pair[0]))) for pair in layers.values()]
        chosen, tried = _split(split)
        threshold, gain = _best(chosen[0], chosen[1], grid(settings))
        rows.append((threshold, gain, float(_gains(tried[0][None], tried[1][None], np.array([threshold]))[1][0, 0])))
    thresholds, gains, held_out = (np.array(column) for column in zip(*rows, strict=True))
    line: dict[str, Any] = {**dict(zip(("chosen_on", "tried_on"), HALVES, strict=True)), "gain_chosen": float(gains.mean())}
    line |= interval_columns("threshold", float(np.median(thresholds)), quantile_interval(thresholds, settings.confidence))
    held_out = held_out[np.isfinite(held_out)]
    of_halves = quantile_interval(held_out, settings.confidence) if len(held_out) else None
    yield line | interval_columns("gain", float(held_out.mean()) if len(held_out) else None, of_halves)


def _split(split: list[tuple[tuple[np.ndarray, np.ndarray], np.ndarray]]) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Values and scores of both halves of shuffled layers."""

    def half(start: int) -> tuple[np.ndarray, ...]:
        return tuple(np.concatenate([pair[part][order[start::2]] for pair, order in split]) for part in (0, 1))

    return half(0), half(1)


def _layers(layers: _Layers, measure: str, settings: SelectionSettings) -> Iterator[dict[str, Any]]:
    """Chosen on one layer, tried on another."""
    for chosen_on, chosen in layers.items():
        threshold, gain = _best(*chosen, grid(settings))
        for tried_on, (values, scores) in layers.items():
            if tried_on == chosen_on:
                continue
            at = np.array([threshold])
            draws = _resampled(values, scores, at, settings, "layers", measure, chosen_on, tried_on)[:, 0]
            line: dict[str, Any] = {"chosen_on": f"layer {chosen_on}", "tried_on": f"layer {tried_on}", "gain_chosen": gain}
            line |= interval_columns("threshold", threshold, Interval(threshold, threshold))
            yield line | _gain_columns(float(_gains(values[None], scores[None], at)[1][0, 0]), draws, len(values), settings)


def _resampled(
    values: np.ndarray, scores: np.ndarray, thresholds: np.ndarray, settings: SelectionSettings, *label: str | int
) -> np.ndarray:
    """Gains of resampled features [draw threshold]."""
    stream = random_stream(settings.seed, "thresholds", *label)
    blocks = []
    for start in range(0, settings.bootstrap_draws, 100):
        picks = stream.integers(0, len(values), size=(min(100, settings.bootstrap_draws - start), len(values)))
        blocks.append(_gains(values[picks], scores[picks], thresholds)[1])
    return np.concatenate(blocks)


def _gain_columns(gain: float, draws: np.ndarray, n: int, settings: SelectionSettings) -> dict[str, float | None]:
    if np.isnan(gain):
        return interval_columns("gain", None, None)
    return interval_columns("gain", gain, resampled_interval(draws[np.isfinite(draws)], n, settings.confidence) if n > 1 else None)
