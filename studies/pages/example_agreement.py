"""How far what max-activating examples say of features depends on the texts that they are from."""

from typing import Any

import polars as pl

from saesteer.settings import IntervalSettings
from studies.questions.quantity_correlations import correlation

_FEATURE = ["layer", "feature"]
CORRELATED = ("input_score", "max_activation", "density")
"""Columns of FEATURES whose rank correlation between the corpora is taken."""
SCHEMA: dict[str, Any] = {
    "layer": pl.UInt16,
    "n": pl.UInt32,
    **{f"rho_{name}{end}": pl.Float64 for name in CORRELATED for end in ("", "_low", "_high")},
}


def example_agreement(features: pl.DataFrame, features_elsewhere: pl.DataFrame, settings: IntervalSettings) -> pl.DataFrame:
    """FEATURES of the same features from two corpora -> a row a layer: rank correlations of what both say, with their intervals."""
    columns = (*_FEATURE, *CORRELATED)
    pairs = features.select(columns).join(features_elsewhere.select(columns), on=_FEATURE, suffix="_other")
    return pl.DataFrame([_line(layer, settings) for layer in pairs.sort(_FEATURE).partition_by("layer")], schema=SCHEMA)


def _line(layer: pl.DataFrame, settings: IntervalSettings) -> dict[str, object]:
    line: dict[str, object] = {"layer": layer["layer"][0], "n": layer.height}
    for name in CORRELATED:
        rho = correlation(layer, name, f"{name}_other", settings, name=f"rho_{name}")
        line |= {column: value for column, value in rho.items() if column != "n"}
    return line
