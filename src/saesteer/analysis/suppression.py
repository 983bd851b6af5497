"""Which feature to steer away from a concept with, and how hard: `recommendation` for less of it, on prompts that evoke the concept.

A text's score is the harmonic mean of 2 minus its concept rating and its fluency rating: 0 where it is wholly about the concept, and where
it is broken. Feature and factor are chosen by it on one half of the prompts and reported on the other, both ways. The verdict goes by the
concept rating: it has to fall, and further than with features of the same layer that have nothing to do with the concept, at the same
factor, whose additions are as large.
"""

from functools import partial

import polars as pl

from saesteer.analysis.recommendation import (
    FEATURE,
    Fall,
    Recommendation,
    Verdict,
    best_choice,
    by_prompt,
    candidates,
    choices_by_half,
    difference,
    harmless,
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


def controls(features: pl.DataFrame, picked: pl.DataFrame, concept: str) -> pl.DataFrame:
    """layer, feature: for each candidate, the feature of its layer that has the nearest max activation among those that are none and do
    not match the concept (`candidates`). Each is taken once; a layer may have too few. features: as of `candidates`."""
    related = pl.concat([frame.select("layer", "feature") for frame in (candidates(features, concept, features.height), picked)])
    others = features.join(related, on=["layer", "feature"], how="anti").drop_nulls("max_activation")
    taken: list[tuple[int, int]] = []
    for layer, max_activation in picked.select("layer", "max_activation").iter_rows():
        untaken = others.filter(~pl.col("feature").is_in([feature for of, feature in taken if of == layer]), layer=layer)
        nearest = untaken.sort((pl.col("max_activation") - max_activation).abs(), "feature")
        taken += nearest.select("layer", "feature").head(1).rows()
    return pl.DataFrame(taken, schema={name: features.schema[name] for name in ("layer", "feature")}, orient="row")


def recommend_less(
    concept: str, rated: pl.DataFrame, unsteered: pl.DataFrame, settings: IntervalSettings, max_damage: float | None = None
) -> Recommendation:
    """The verdict from the ratings of the candidates' (FEATURE) and the control's texts.

    rated: as of `recommend`, scored by absence, of factors below 0, also CLAMPED, and ABLATED; unsteered: prefix_id and the same ratings.
    """
    feature = best_choice(rated, unsteered, FEATURE, settings, max_damage)
    if feature is None:
        return Recommendation(concept, "none", None, (), ())
    allowed = partial(harmless, unsteered=unsteered, settings=settings, max_damage=max_damage)
    chosen = choices_by_half(rated, rated.filter(kind=FEATURE), allowed)
    control = pl.concat(of_half.filter(kind=CONTROL).join(choice, on=["layer", "factor"], how="semi") for choice, of_half in chosen)
    before, of_control = (by_prompt(rows, "concept_rating") for rows in (unsteered, control))
    of_feature = feature.concept_by_prompt
    fall = Fall(
        difference(before, of_feature, settings, RATINGS),
        difference(before, of_control, settings, RATINGS),
        difference(of_control, of_feature, settings, RATINGS),
    )
    return Recommendation(concept, verdict_of_fall(fall), feature, (), (), fall=fall)


def verdict_of_fall(fall: Fall) -> Verdict:
    """By the ratings alone. use: the concept rating falls, and further than the control's, both by their intervals; weak: it falls only;
    none: it is not seen to fall."""
    if fall.of_feature.interval is None or fall.of_feature.interval.low <= 0:
        return "none"
    return "use" if fall.beyond_control.interval is not None and fall.beyond_control.interval.low > 0 else "weak"
