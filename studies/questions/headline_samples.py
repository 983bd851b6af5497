"""What P1's filter gains over a layer's whole population, beside what it gains in samples as small as those that headlines are made of."""

from typing import Any

import numpy as np
import polars as pl

from saesteer.core.uncertainty import (
    SCALES,
    difference_interval,
    interval_columns,
    quantile_interval,
    random_stream,
    ratio_interval,
    within_difference,
)
from saesteer.settings import SelectionSettings
from studies.questions.tables import HEADLINE_SAMPLES

MEASURES = ("net_gen_success_20", "gen_success_20", "judge_score")
N_SAMPLED = 30
"""Features of a layer in a sample: as many as the shipped experiment has."""


def headline_samples(outcomes: pl.DataFrame, rule: str, settings: SelectionSettings) -> pl.DataFrame:
    """OUTCOMES -> HEADLINE_SAMPLES."""
    chosen = outcomes.filter(rule=rule).sort("layer", "feature")
    layers = chosen["layer"].unique().sort().to_list()
    lines = []
    for measure in MEASURES:
        for name, of_layers in (("all", layers), *((str(layer), [layer]) for layer in layers)):
            rows = [chosen.filter(pl.col("layer") == layer).drop_nulls(measure) for layer in of_layers]
            by_layer = [(group[measure].to_numpy(), group["output_score"].to_numpy() >= settings.headline_threshold) for group in rows]
            concepts = pl.concat(rows).select(pl.struct("layer", "concept").rank("dense").cast(pl.Int64)).to_series().to_numpy()
            lines.append({"measure": measure, "layers": name} | _line(by_layer, concepts, (measure, name), settings))
    return pl.DataFrame(lines, schema=HEADLINE_SAMPLES.schema).sort(HEADLINE_SAMPLES.keys)


def _line(
    by_layer: list[tuple[np.ndarray, np.ndarray]], concepts: np.ndarray, label: tuple[str, str], settings: SelectionSettings
) -> dict[str, Any]:
    values, is_kept = (np.concatenate([pair[place] for pair in by_layer]) for place in (0, 1))
    interval = difference_interval(values[is_kept], values[~is_kept], settings.confidence, SCALES[label[0]])
    has_both = 0 < is_kept.sum() < len(is_kept)
    line: dict[str, Any] = {"n": len(values), "n_kept": int(is_kept.sum()), "mean": _mean(values), "kept_mean": _mean(values[is_kept])}
    line |= interval_columns("difference", float(values[is_kept].mean() - values[~is_kept].mean()) if has_both else None, interval)
    line |= interval_columns("within_difference", *within_difference(values, is_kept, concepts, settings.confidence))
    layers = np.repeat(np.arange(len(by_layer)), [len(layer_values) for layer_values, _ in by_layer])
    of_all = ratio_interval(values, is_kept, layers, settings.confidence).ratio
    line |= {"n_sampled": N_SAMPLED, **interval_columns("ratio", *of_all)}
    if len(sampled := _sampled(by_layer, settings, *label)):
        line |= interval_columns("sampled_ratio", float(np.median(sampled)), quantile_interval(sampled, settings.confidence))
    return line


def _sampled(by_layer: list[tuple[np.ndarray, np.ndarray]], settings: SelectionSettings, *label: str) -> np.ndarray:
    """Ratios of many samples of `N_SAMPLED` features of each layer (all of a layer that has fewer), those left out that have none."""
    stream = random_stream(settings.seed, "headline samples", *label)
    ratios = []
    for _ in range(settings.bootstrap_draws):
        picks = [stream.choice(len(layer_values), min(N_SAMPLED, len(layer_values)), replace=False) for layer_values, _ in by_layer]
        values, is_kept = (np.concatenate([pair[place][pick] for pair, pick in zip(by_layer, picks, strict=True)]) for place in (0, 1))
        ratios.append(_ratio(values, is_kept))
    return np.array([ratio for ratio in ratios if ratio is not None])


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _ratio(values: np.ndarray, is_kept: np.ndarray) -> float | None:
    """Mean over those kept by the mean over all."""
    return float(values[is_kept].mean() / values.mean()) if is_kept.any() and values.mean() else None
