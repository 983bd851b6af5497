"""Success and perplexity against factor, by how promising the output score says a feature is (P1, arXiv 2505.20063, sweep)."""

from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from saesteer.analysis.best_factor import both_halves
from saesteer.analysis.tables import FACTOR_BINS
from saesteer.core.uncertainty import SUCCESS, mean_columns
from saesteer.settings import SelectionSettings

EDGES = (0.0, 0.01, 0.1, 0.3, 1.0)
"""Of the bins of output scores: the filter's threshold, and what lies below it."""


def factor_bins(steering: pl.DataFrame, features: pl.DataFrame, edges: tuple[float, ...], settings: SelectionSettings) -> pl.DataFrame:
    """STEERING and FEATURES -> FACTOR_BINS: means over the features of an output-score bin, all prefixes, at every factor.

    `edges` ascend from 0 to 1; a bin holds its lower edge, the last one also 1. Perplexity is the geometric mean. Bins without a
    feature have no rows.
    """
    scores = features.select("layer", "feature", "output_score")
    frame = both_halves(steering).join(scores, on=["layer", "feature"], how="inner").sort("layer", "feature")
    rows = []
    for low, high in pairwise(edges):
        below = pl.col("output_score") <= high if high == edges[-1] else pl.col("output_score") < high
        members = frame.filter((pl.col("output_score") >= low) & below).drop_nulls("gen_success_20")
        for factor in sorted(members["factor"].unique(), key=float):
            key = {"output_score_low": low, "output_score_high": high, "factor": factor}
            rows.append(key | _row(members.filter(factor=factor), settings))
    return pl.DataFrame(rows, schema=FACTOR_BINS.schema)


def _row(members: pl.DataFrame, settings: SelectionSettings) -> dict[str, Any]:
    success = members["gen_success_20"].to_numpy()
    losses = members["log_perplexity"].drop_nulls().to_numpy()
    loss = mean_columns("perplexity", losses, settings)
    perplexity = {name: None if value is None else float(np.exp(value)) for name, value in loss.items()}
    return {"n_features": members.height, **mean_columns("gen_success_20", success, settings, scale=SUCCESS), **perplexity}
