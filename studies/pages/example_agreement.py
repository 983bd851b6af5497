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
    **dict.fromkeys(("n_concept", "n_other_concept", "n_both", "n_same"), pl.UInt32),
}


def example_agreement(features: pl.DataFrame, features_elsewhere: pl.DataFrame, settings: IntervalSettings) -> pl.DataFrame:
    """FEATURES of the same features from two corpora -> a row a layer: rank correlations of what both say, with their intervals, and how
    many features have a concept by the first, by the second, by both, and the same by both."""
    columns = (*_FEATURE, "concept", *CORRELATED)
    pairs = features.select(columns).join(features_elsewhere.select(columns), on=_FEATURE, suffix="_other")
    return pl.DataFrame([_line(layer, settings) for layer in pairs.sort(_FEATURE).partition_by("layer")], schema=SCHEMA)


def _line(layer: pl.DataFrame, settings: IntervalSettings) -> dict[str, object]:
    number, labelled = layer["layer"][0], layer.drop_nulls(["concept", "concept_other"])
    line: dict[str, object] = {"layer": number, "n": layer.height}
    for name in CORRELATED:
        rho = correlation(layer, name, f"{name}_other", settings, name=f"rho_{name}")
        line |= {column: value for column, value in rho.items() if column != "n"}
    concepts = {"n_concept": layer["concept"].count(), "n_other_concept": layer["concept_other"].count(), "n_both": labelled.height}
    return line | concepts | {"n_same": (labelled["concept"] == labelled["concept_other"]).sum()}
