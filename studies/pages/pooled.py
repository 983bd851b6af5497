"""The same comparison on several training seeds of the shipped world as one: a concept's score is its mean over seeds, and the concepts are
what varies. So an interval covers other concepts, with the seeds as they are; a difference between seeds is seen beside it."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from saesteer.methods.compare.differences import method_differences
from saesteer.methods.compare.means import mean_over_concepts
from saesteer.methods.compare.ranks import method_ranks
from saesteer.settings.methods import MethodSettings

_FIT = ["layer", "method", "concept_id"]
_METHOD = ["layer", "method"]
RATINGS, LOSSES = ("concept_rating", "fluency_rating", "median_relative_change"), ("loss_rise", "other_rating")
"""Columns of METHODS_TABLE and METHOD_DAMAGE whose mean over seeds is shown."""


def pooled_scores(by_seed: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """METHOD_SCORES of each seed -> layer, method, concept_id and score, its mean over seeds; null where a seed has none."""
    rows = pl.concat([scores.select(*_FIT, "score") for scores in by_seed])
    seed_mean = pl.when(pl.col("score").count() == len(by_seed)).then(pl.col("score").mean())
    return rows.group_by(_FIT).agg(seed_mean.alias("score")).sort(_FIT)


def pooled_methods(
    scores: Sequence[pl.DataFrame], methods: Sequence[pl.DataFrame], damage: Sequence[pl.DataFrame], settings: MethodSettings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """METHOD_SCORES, METHODS_TABLE and METHOD_DAMAGE of each seed -> (a row a layer and method: mean and rank of the pooled score with
    their intervals, each seed's own mean, means over seeds of ratings and damage, and how many other methods of the layer it is above and
    below in an interval that covers all pairs; METHOD_DIFFERENCES of the pooled scores)."""
    pooled = pooled_scores(scores)
    differences = method_differences(pooled, settings)
    lines = []
    for (layer, key), group in pooled.group_by(_METHOD, maintain_order=True):
        mean = mean_over_concepts("score", group["score"], settings, "pooled", layer, key)
        lines.append({"layer": layer, "method": key, "n": group["score"].count(), **mean})
    table = pl.DataFrame(lines).cast({"layer": pl.UInt16}).join(method_ranks(pooled, settings), on=_METHOD, how="left")
    for seed, of_seed in enumerate(methods):
        table = table.join(of_seed.select(*_METHOD, pl.col("score").alias(f"seed_{seed}")), on=_METHOD, how="left")
    joined = [of_seed.join(lost.select(*_METHOD, *LOSSES), on=_METHOD) for of_seed, lost in zip(methods, damage, strict=True)]
    every = pl.concat([of_seed.select(*_METHOD, "title", "n_abstaining", "n_effect_vectors", *RATINGS, *LOSSES) for of_seed in joined])
    means = every.group_by(_METHOD).agg(
        pl.col("title", "n_effect_vectors").first(), pl.col("n_abstaining").sum(), pl.col(*RATINGS, *LOSSES).mean()
    )
    table = table.join(means, on=_METHOD, how="left").join(_above_and_below(differences), on=_METHOD, how="left")
    return table.sort(_METHOD), differences


def _above_and_below(differences: pl.DataFrame) -> pl.DataFrame:
    """layer, method, n_above and n_below: how many others it is told apart from, all pairs of the layer taken together."""
    above, below = pl.col("simultaneous_low") > 0, pl.col("simultaneous_high") < 0
    one_way = differences.select(*_METHOD, above.alias("n_above"), below.alias("n_below"))
    other_way = differences.select("layer", method="other", n_above=below, n_below=above)
    return pl.concat([one_way, other_way]).group_by(_METHOD).agg(pl.col("n_above", "n_below").sum())
