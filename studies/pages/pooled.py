"""The same comparison on several training seeds of the shipped world as one: a concept's score is its mean over seeds.

Seeds and concepts are crossed and both random: an interval covers other concepts and other seeds. Its reach is the root of the sum of
squares of the concepts' own (an interval of the means over seeds) and the seeds' own (Student's t of the variance component of seeds in the
two-way layout without replication, Searle, Casella and McCulloch, Variance Components, 1992, ch. 4): reaches of two sources are combined
as Graybill and Wang (J. Am. Stat. Assoc. 75, 1980, p. 869) do. With three seeds it covers 95 to 97 % by simulation.

What is told apart among all pairs is so of these seeds' mean scores, over concepts: three seeds could tell nothing of so many pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.core.tables import METHOD_DIFFERENCES
from saesteer.core.uncertainty import RATINGS as RATED
from saesteer.core.uncertainty import SHARES, Interval, of_differences, student_t
from saesteer.methods.compare.differences import method_differences, told_apart, wins
from saesteer.methods.compare.equal_cost import order_correlations
from saesteer.methods.compare.means import mean_over_concepts
from saesteer.methods.compare.ranks import method_ranks
from saesteer.settings.methods import MethodSettings

_FIT = ["layer", "method", "concept_id"]
_METHOD = ["layer", "method"]
RATINGS, LOSSES = ("concept_rating", "fluency_rating", "median_relative_change"), ("loss_rise", "other_rating")
"""Columns of METHODS_TABLE and METHOD_DAMAGE whose mean over seeds is shown."""


def pooled_scores(by_seed: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """METHOD_SCORES of each seed -> layer, method, concept_id and score, its mean over seeds; null where a seed has none. It has five
    digits: of a seed's score six are kept, and means of equal scores are to be equal."""
    rows = pl.concat([scores.select(*_FIT, "score") for scores in by_seed])
    seed_mean = pl.when(pl.col("score").count() == len(by_seed)).then(pl.col("score").mean().round(5))
    return rows.group_by(_FIT).agg(seed_mean.alias("score")).sort(_FIT)


def pooled_methods(
    scores: Sequence[pl.DataFrame], methods: Sequence[pl.DataFrame], damage: Sequence[pl.DataFrame], settings: MethodSettings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """METHOD_SCORES, METHODS_TABLE and METHOD_DAMAGE of each seed -> (a row a layer and method: mean and rank of the pooled score with
    their intervals, each seed's own mean, means over seeds of ratings and damage, and how many other methods of the layer it is
    told apart from, above and below; METHOD_DIFFERENCES of the pooled scores)."""
    pooled = pooled_scores(scores)
    values = _by_method(scores)
    rows = [
        row
        | _with_seeds(row, of_pair, settings, of_differences(RATED), "mean", "")
        | _with_seeds(row, wins(of_pair), settings, SHARES, "win_rate", "win_rate_")
        for row in method_differences(pooled, settings).to_dicts()
        for of_pair in [_difference(row, values)]
    ]
    differences = pl.DataFrame(rows, schema=METHOD_DIFFERENCES.schema)
    table = _means(pooled, values, settings).join(method_ranks(pooled, settings), on=_METHOD, how="left")
    for seed, of_seed in enumerate(methods):
        table = table.join(of_seed.select(*_METHOD, pl.col("score").alias(f"seed_{seed}")), on=_METHOD, how="left")
    joined = [of_seed.join(lost.select(*_METHOD, *LOSSES), on=_METHOD) for of_seed, lost in zip(methods, damage, strict=True)]
    every = pl.concat([of_seed.select(*_METHOD, "title", "n_abstaining", "n_effect_vectors", *RATINGS, *LOSSES) for of_seed in joined])
    means = every.group_by(_METHOD).agg(
        pl.col("title", "n_effect_vectors").first(), pl.col("n_abstaining").sum(), pl.col(*RATINGS, *LOSSES).mean()
    )
    table = table.join(means, on=_METHOD, how="left").join(_above_and_below(differences, settings.confidence), on=_METHOD, how="left")
    return table.sort(_METHOD), differences


def pooled_equal_cost(scores: Sequence[pl.DataFrame], methods: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """METHOD_EQUAL_COST_SCORES of each seed and the pooled methods -> METHOD_EQUAL_COST's columns: a row a layer, method and limit."""
    tables = []
    for limit in scores[0]["limit"].unique().sort():
        of_limit = [of_seed.filter(pl.col("limit") == limit) for of_seed in scores]
        unsteered = pl.concat(of_limit).group_by(_METHOD).agg(share_unsteered=pl.col("abstains").mean())
        means = _means(pooled_scores(of_limit), _by_method(of_limit), settings)
        tables.append(means.join(unsteered, on=_METHOD).with_columns(limit=pl.lit(limit)))
    ends = {f"unlimited_{name}": name for name in ("score", "score_low", "score_high")}
    table = pl.concat(tables).join(methods.select(*_METHOD, "title", **ends), on=_METHOD, how="left")
    rounded = table.with_columns(pl.col("score", "unlimited_score").round(5))  # six digits are kept: means of equal scores are equal
    return table.join(order_correlations(rounded, settings.confidence), on=["layer", "limit"], how="left").sort(*_METHOD, "limit")


def seeds_reach(values: Float[np.ndarray, "seed concept"], confidence: float) -> float:
    """How far from the mean over seeds and concepts other seeds may lie; 0 for a single one, and where seeds differ no more than their
    concepts' scatter says. Concepts that a seed lacks are left out."""
    complete = values[:, np.isfinite(values).all(axis=0)]
    n_seeds, n_concepts = complete.shape
    if min(n_seeds, n_concepts) < 2:
        return 0.0
    of_seeds = complete.mean(axis=1, keepdims=True)
    residual = complete - of_seeds - complete.mean(axis=0) + complete.mean()
    mean_squares = n_concepts * of_seeds.var(ddof=1), (residual**2).sum() / ((n_seeds - 1) * (n_concepts - 1))
    variance = max(0.0, float(mean_squares[0] - mean_squares[1])) / complete.size
    return student_t(confidence, n_seeds - 1) * variance**0.5


def widened_by_seeds(mean: float, of_concepts: Interval, reach: float, scale: Interval) -> Interval:
    """An interval over concepts with the seeds' reach beside it, within the scale."""
    low, high = mean - hypot(mean - of_concepts.low, reach), mean + hypot(of_concepts.high - mean, reach)
    return Interval(max(scale.low, low), min(scale.high, high))


def _means(
    pooled: pl.DataFrame, values: Mapping[tuple[int, str], Float[np.ndarray, "seed concept"]], settings: MethodSettings
) -> pl.DataFrame:
    """Pooled scores and each seed's -> layer, method, n, and the mean with its interval over seeds and concepts."""
    lines = []
    for (layer, key), group in pooled.group_by(_METHOD, maintain_order=True):
        mean = mean_over_concepts("score", group["score"], settings, scale=RATED)
        line = {"layer": layer, "method": key, "n": group["score"].count(), **mean}
        lines.append(line | _with_seeds(line, values[layer, key], settings, RATED, "score", "score_"))
    return pl.DataFrame(lines).cast({"layer": pl.UInt16})


def _with_seeds(
    row: Mapping[str, Any], values: Float[np.ndarray, "seed concept"], settings: MethodSettings, scale: Interval, name: str, ends: str
) -> dict[str, float]:
    """The ends of a row's interval, with the seeds' reach beside the concepts'."""
    if row[f"{ends}low"] is None:
        return {}
    reach = seeds_reach(values, settings.confidence)
    widened = widened_by_seeds(row[name], Interval(row[f"{ends}low"], row[f"{ends}high"]), reach, scale)
    return {f"{ends}low": widened.low, f"{ends}high": widened.high}


def _difference(
    row: Mapping[str, Any], values: Mapping[tuple[int, str], Float[np.ndarray, "seed concept"]]
) -> Float[np.ndarray, "seed concept"]:
    return values[row["layer"], row["method"]] - values[row["layer"], row["other"]]


def _by_method(by_seed: Sequence[pl.DataFrame]) -> dict[tuple[int, str], Float[np.ndarray, "seed concept"]]:
    """(layer, method) -> its scores, concepts in their order; NaN where a seed has none."""
    concepts = pl.concat([scores.select("layer", "concept_id") for scores in by_seed]).unique()
    rows = pl.concat([scores.select(*_FIT, "score").with_columns(seed=pl.lit(seed)) for seed, scores in enumerate(by_seed)])
    every = rows.select(*_METHOD).unique().join(concepts, on="layer").join(pl.DataFrame({"seed": range(len(by_seed))}), how="cross")
    filled = every.join(rows, on=[*_FIT, "seed"], how="left").sort(*_METHOD, "seed", "concept_id")
    return {
        (layer, key): group["score"].fill_null(np.nan).to_numpy().reshape(len(by_seed), -1)
        for (layer, key), group in filled.group_by(_METHOD, maintain_order=True)
    }


def _above_and_below(differences: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """layer, method, n_above and n_below: how many others it is told apart from among all pairs of the layer."""
    above, below = (told_apart(confidence) & is_so for is_so in (pl.col("win_rate") > 0.5, pl.col("win_rate") < 0.5))
    one_way = differences.select(*_METHOD, above.alias("n_above"), below.alias("n_below"))
    other_way = differences.select("layer", method="other", n_above=below, n_below=above)
    return pl.concat([one_way, other_way]).group_by(_METHOD).agg(pl.col("n_above", "n_below").sum())
