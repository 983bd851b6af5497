"""What `saesteer recommend` would say of each concept, against the best that could be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from saesteer.analysis.recommendation import FEATURE, N_PER_LAYER, UNSTEERED, best_choice, candidates, recommend
from saesteer.core.tables import FEATURES, JUDGEMENTS, of_features
from saesteer.core.uncertainty import interval_columns
from saesteer.run import Run
from saesteer.settings import IntervalSettings
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import RECOMMENDATIONS


def recommendations(features: pl.DataFrame, texts: pl.DataFrame, n_per_layer: int, settings: IntervalSettings) -> pl.DataFrame:
    """RECOMMENDATIONS, where every feature was steered with: what is recommended for each concept that features are labelled with, against
    the best that choosing among all of them reaches.

    texts: JUDGEMENTS rows of features, prompts in their order.
    """
    labelled = features.select("layer", "feature", "concept").drop_nulls("concept")
    rated = texts.join(labelled, on=["layer", "feature"], maintain_order="left").with_columns(
        kind=pl.lit(FEATURE), name=pl.col("feature").cast(pl.String), layer=pl.col("layer").cast(pl.Int64)
    )
    rows = [_recommended(str(name), features, of, n_per_layer, settings) for (name,), of in rated.group_by("concept", maintain_order=True)]
    return pl.DataFrame(rows, schema=RECOMMENDATIONS.schema).sort("concept")


def _recommended(concept: str, features: pl.DataFrame, rated: pl.DataFrame, n_per_layer: int, settings: IntervalSettings) -> dict[str, Any]:
    with_labels_only = features.with_columns(fires_on=pl.lit(None, pl.String), near=False)
    of_label = candidates(with_labels_only, concept, n_per_layer).filter(match="label")
    keys = of_label.select(pl.col("layer").cast(pl.Int64), name=pl.col("feature").cast(pl.String))
    steered, unsteered = rated.filter(pl.col("factor") != UNSTEERED), rated.filter(factor=UNSTEERED)
    recommended = recommend(concept, steered.join(keys, on=["layer", "name"], how="semi", maintain_order="left"), unsteered, settings)
    best = best_choice(steered, unsteered, FEATURE, settings)
    row: dict[str, Any] = {"concept": concept, "n_candidates": of_label.height, "verdict": recommended.verdict}
    if recommended.feature is None or best is None or recommended.feature.score.mean is None or best.score.mean is None:
        return row
    score, regret = recommended.feature.score, best.score.mean - recommended.feature.score.mean
    row |= {"layer": recommended.feature.layer, "feature": int(recommended.feature.name), "factor": recommended.feature.factor}
    row |= {"best_layer": best.layer, "best_feature": int(best.name), "best_factor": best.factor}
    return row | interval_columns("score", score.mean, score.interval) | {"best": best.score.mean, "regret": regret}


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    place = {prompt: number for number, prompt in enumerate(run.prompts())}
    texts = of_features(run.rows(JUDGEMENTS, run.layers))
    texts = texts.sort(pl.col("prefix_id").replace_strict(place, return_dtype=pl.Int64), maintain_order=True)
    return {RECOMMENDATIONS.name: recommendations(run.summary(FEATURES), texts, N_PER_LAYER, run.sweep.selection)}


SUMMARY = Summary((RECOMMENDATIONS,), steers_every_feature, compute)
