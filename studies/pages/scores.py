"""What the scores of every feature of a model say, layer by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.tables import read_summary
from saesteer.steps.features import FEATURES

HIGH = 0.5
"""A score above this is high, on P1's scale from 0 to 1."""


def scores_by_layer(files: Sequence[Path]) -> list[dict[str, Any]]:
    """FEATURES tables, one a layer -> medians, and shares of features with high scores, of those that have them."""
    return [_layer(read_summary(FEATURES, file)) for file in sorted(files)]


def _layer(features: pl.DataFrame) -> dict[str, Any]:
    scored = features.drop_nulls("input_score")
    high_in_both = (scored["input_score"] > HIGH) & (scored["output_score"] > HIGH)
    return {
        "layer": features["layer"][0],
        "n": features.height,
        "n_without_input_score": features.height - scored.height,
        "input_score": scored["input_score"].median(),
        "output_score": features["output_score"].median(),
        "delta_token_confidence": features["delta_token_confidence"].median(),
        "share_output_high": (features["output_score"] > HIGH).mean(),
        "share_both_high": high_in_both.mean(),
    }
