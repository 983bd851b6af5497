"""Which feature to steer away from a concept with, and how hard: `recommendation` for less of it, on prompts that evoke the concept.

A text's score is the harmonic mean of 2 minus its concept rating and its fluency rating: 0 where it is wholly about the concept, and where
it is broken. Feature and factor are chosen by it on some prompts and reported on others. The verdict goes by the concept rating: it has to
fall, and further than with features of the same layer that have nothing to do with the concept, at the same factor, whose additions are as
large.
"""

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from saesteer.analysis.candidates import candidates
from saesteer.analysis.recommendation import (
    FEATURE,
    Fall,
    PromptMean,
    Recommendation,
    by_prompt,
    difference,
    harms_little,
    is_above_0,
    scored,
    unsteered_texts,
)
from saesteer.analysis.score import harmonic_mean
from saesteer.core.uncertainty import RATINGS
from saesteer.settings import Edit, IntervalSettings

CONTROL = "control"
"""The kind of texts steered with features that have nothing to do with the concept."""
ABLATED = "ablated"
"""In place of a factor: the feature's activation is 0 at every position."""
CLAMPED = "clamped at factor "
"""Before a factor: where the feature is active, its activation is that multiple of a_max."""


def edit_of(factor: str) -> tuple[Edit, float]:
    """What is done with a feature (settings: `sweep.edit`), and at which factor."""
    if factor == ABLATED:
        return "ablation", 1.0
    if factor.startswith(CLAMPED):
        return "clamp", float(factor.removeprefix(CLAMPED))
    return "addition", float(factor)


def scored_by_absence(rated: pl.DataFrame) -> pl.DataFrame:
    """Ratings with the score for less of the concept in place of the judge's."""
    absence = rated.with_columns(judge_score=RATINGS.high - pl.col("concept_rating").cast(pl.Float64))
    return absence.with_columns(judge_score=harmonic_mean(["judge_score", "fluency_rating"]))


def controls(features: pl.DataFrame, picked: pl.DataFrame, concept: str, further: Sequence[str] = ()) -> pl.DataFrame:
    """layer, feature: for each candidate, the feature of its layer that has the nearest max activation among those that are none and do
    not match the concept (`candidates`). Each is taken once; a layer may have too few. features: as of `candidates`."""
    by_words = candidates(features.drop("similarity", strict=False), concept, features.height, further)
    related = pl.concat([frame.select("layer", "feature") for frame in (by_words, picked)])
    if "similarity" in features.columns:  # of which every feature has some
        features = features.filter(pl.col("similarity") <= pl.col("similarity").median().over("layer"))
    others = features.join(related, on=["layer", "feature"], how="anti").drop_nulls("max_activation")
    taken: list[tuple[int, int]] = []
    for layer, max_activation in picked.select("layer", "max_activation").iter_rows():
        untaken = others.filter(~pl.col("feature").is_in([feature for of, feature in taken if of == layer]), layer=layer)
        nearest = untaken.sort((pl.col("max_activation") - max_activation).abs(), "feature")
        taken += nearest.select("layer", "feature").head(1).rows()
    return pl.DataFrame(taken, schema={name: features.schema[name] for name in ("layer", "feature")}, orient="row")


def recommend_less(
    concept: str,
    options: pl.DataFrame,
    texts: pl.DataFrame,
    settings: IntervalSettings,
    damage_limit: float,
    ordinary_loss: PromptMean | None = None,
) -> Recommendation:
    """The recommendation for less of a concept, as `recommend` but of a feature (FEATURE) alone; texts: scored by absence, with those of
    CONTROL at the same layer and factor."""
    option = next((option for option in options.to_dicts() if option["kind"] == FEATURE), None)
    if option is None:
        return Recommendation(concept, None, None)
    control = texts.filter(kind=CONTROL, layer=option["layer"], factor=option["factor"])
    before, of_feature, of_control = (
        by_prompt(rows, "concept_rating") for rows in (unsteered_texts(texts), texts.filter(**option), control)
    )
    fall = Fall(
        difference(before, of_feature, settings, RATINGS),
        difference(before, of_control, settings, RATINGS),
        difference(of_control, of_feature, settings, RATINGS),
    )
    falls = {
        "a fall of the concept rating": is_above_0(fall.of_feature),
        "a further fall than the control's": is_above_0(fall.beyond_control),
    }
    choice = scored(option, texts, settings)
    feature = replace(choice, requirements=falls | harms_little(choice, damage_limit, ordinary_loss))
    return Recommendation(concept, feature, ordinary_loss, fall=fall)
