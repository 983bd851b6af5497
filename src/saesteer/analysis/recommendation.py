"""Which feature to steer with towards a concept or away from it, how hard, and whether anything else does better.

Candidates are few (analysis.candidates). Feature and factor are chosen by the judge's mean score on some prompts. The scores reported are
of that feature and factor on other prompts, so they owe nothing to the choice.

For less of a concept the prompts evoke it. A text's score is then the harmonic mean of 2 minus its concept rating and its fluency rating: 0
where it is wholly about the concept, and where it is broken. The verdict goes by the concept rating: it has to fall, and further than with
features of the same layer that have nothing to do with the concept, at the same factor, whose additions are as large.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, inf
from typing import Any, Literal

import numpy as np
import polars as pl

from saesteer.analysis.best_factor import highest
from saesteer.analysis.candidates import candidates
from saesteer.analysis.score import harmonic_mean
from saesteer.core.uncertainty import RATINGS, Interval, difference_interval, mean_interval, of_differences, student_interval
from saesteer.settings import Edit, IntervalSettings

STEERS = 1.0
"""The mean judge score (0 to 2) from which a recommendation is worth following: that of texts with both ratings 1."""
FEATURE, UNSTEERED = "feature", "0"
CONTROL = "control"
"""The kind of texts steered with features that have nothing to do with the concept."""
ABLATED = "ablated"
"""In place of a factor: the feature's activation is 0 at every position."""
CLAMPED = "clamped at factor "
"""Before a factor: where the feature is active, its activation is that multiple of a_max."""
N_PER_LAYER = 4
"""Candidates of a layer, unless another number is asked for."""
_MOST_NATS = 700.0
"""Larger rises are cut to this many nats: their exponential would overflow."""
_ABOVE_0 = 1e-9
"""The least mean that is not 0 but for rounding."""
Verdict = Literal["use", "try it", "don't"]
Met = Literal["shown", "open", "no"]
"""Whether an estimate is where it has to be: its whole interval, the mean alone, or not (or it is not known)."""
OPTION = ["kind", "layer", "name", "factor"]
"""What names a way of steering and its strength."""


@dataclass(frozen=True)
class PromptMean:
    """A mean over prompts with its interval; None where nothing was rated."""

    mean: float | None
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Choice:
    """One kind of steering at its best: what was chosen on some prompts, and the means over others."""

    kind: str
    """FEATURE, or a method's name."""
    layer: int
    name: str
    """Number of the feature; of a method its name."""
    factor: str
    score: PromptMean
    concept: PromptMean
    fluency: PromptMean
    above_unsteered: PromptMean
    """Score minus the unsteered texts'."""
    perplexity: PromptMean
    """Perplexity of its texts as a multiple of the unsteered ones'."""
    by_prompt: Mapping[str, float]
    """Score of each prompt."""
    requirements: Mapping[str, Met]
    """What the verdict asks for, in words."""

    @property
    def verdict(self) -> Verdict:
        """use: all that is required is shown by its interval; try it: all means are as required; don't: some are not."""
        if "no" in self.requirements.values():
            return "don't"
        return "try it" if "open" in self.requirements.values() else "use"


@dataclass(frozen=True)
class Fall:
    """How far the concept rating falls below the unsteered texts', prompt by prompt."""

    of_feature: PromptMean
    of_control: PromptMean
    """With features of the layer that nothing links to the concept, at the same factor."""
    beyond_control: PromptMean
    """The first minus the second."""


@dataclass(frozen=True)
class Recommendation:
    """The verdict on a concept, and what it rests on."""

    concept: str
    feature: Choice | None
    ordinary_loss: PromptMean | None
    """What the feature adds to the loss on ordinary texts, nats a token; None where there are none."""
    rivals: tuple[Choice, ...] = ()
    """Other methods, in descending order of their scores."""
    behind: tuple[PromptMean, ...] = ()
    """Each rival's score minus the feature's, prompt by prompt."""
    fall: Fall | None = None
    """Where less of the concept is wanted."""

    @property
    def verdict(self) -> Verdict:
        """On the feature; "don't" where none could be chosen."""
        return self.feature.verdict if self.feature else "don't"


def best_options(rated: pl.DataFrame) -> pl.DataFrame:
    """OPTION columns: the option of the highest mean score of each kind, ties as for every recommended factor.

    rated: OPTION columns and judge_score: texts at factors other than 0.
    """
    means = rated.group_by(OPTION).agg(pl.col("judge_score").mean()).sort(OPTION)
    return highest(means, ["kind"]).select(OPTION).sort("kind")


def recommend(
    concept: str,
    options: pl.DataFrame,
    texts: pl.DataFrame,
    settings: IntervalSettings,
    damage_limit: float,
    ordinary_loss: PromptMean | None = None,
) -> Recommendation:
    """The verdict on what `best_options` chose, and how it compares with the rivals.

    texts: OPTION columns, prefix_id, judge_score, concept_rating, fluency_rating, mean_nll, on prompts that took no part in the choice: of
    the options, and of the unsteered model (FEATURE, UNSTEERED). ordinary_loss: as of Recommendation.
    """
    choices = {option["kind"]: scored(option, texts, settings) for option in options.to_dicts()}
    feature = choices.pop(FEATURE, None)
    if feature is not None:
        feature = replace(feature, requirements=_steers(feature) | harms_little(feature, damage_limit, ordinary_loss))
    rivals = [replace(rival, requirements=_steers(rival) | harms_little(rival, damage_limit)) for rival in choices.values()]
    rivals.sort(key=lambda rival: -(rival.score.mean or 0.0))
    behind = tuple(difference(rival.by_prompt, feature.by_prompt if feature else {}, settings, RATINGS) for rival in rivals)
    return Recommendation(concept, feature, ordinary_loss, tuple(rivals), behind)


def scored(option: Mapping[str, Any], texts: pl.DataFrame, settings: IntervalSettings) -> Choice:
    """An option with its scores, as yet without requirements; texts: as of `recommend`."""
    rows, unsteered = texts.filter(**option), unsteered_texts(texts)
    score, concept, fluency = (by_prompt(rows, column) for column in ("judge_score", "concept_rating", "fluency_rating"))
    return Choice(
        **option,
        score=estimated(score.values(), settings, RATINGS),
        concept=estimated(concept.values(), settings, RATINGS),
        fluency=estimated(fluency.values(), settings, RATINGS),
        above_unsteered=_above(score, by_prompt(unsteered, "judge_score"), settings),
        perplexity=_perplexity_ratio(rows, unsteered, settings),
        by_prompt=score,
        requirements={},
    )


def unsteered_texts(texts: pl.DataFrame) -> pl.DataFrame:
    """The unsteered model's among texts."""
    return texts.filter(kind=FEATURE, factor=UNSTEERED)


def met(estimate: PromptMean, low: float = -inf, high: float = inf) -> Met:
    """Whether an estimate is from `low` to `high`."""
    if estimate.mean is None or not low <= estimate.mean <= high:  # NaN is nowhere
        return "no"
    ends = estimate.interval
    return "shown" if ends is not None and low <= ends.low and ends.high <= high else "open"


def is_above_0(estimate: PromptMean) -> Met:
    """Whether an estimate is above 0."""
    return met(estimate, low=_ABOVE_0)


def _steers(choice: Choice) -> dict[str, Met]:
    """What is required of the scores."""
    return {f"a score of {STEERS:g} or more": met(choice.score, low=STEERS), "more than unsteered": is_above_0(choice.above_unsteered)}


def harms_little(choice: Choice, damage_limit: float, ordinary_loss: PromptMean | None = None) -> dict[str, Met]:
    """What is required of the damage: multiples of the unsteered perplexity, at most the limit. None: not measured, and not required."""
    required = {"perplexity of its texts within the limit": met(choice.perplexity, high=damage_limit)}
    if ordinary_loss is not None:
        required["perplexity of ordinary text within the limit"] = met(as_multiple(ordinary_loss), high=damage_limit)
    return required


def harmless(rows: pl.DataFrame, unsteered: pl.DataFrame, settings: IntervalSettings, max_damage: float) -> pl.DataFrame:
    """The rows of each option and factor whose texts' perplexity is seen, by its interval, to be at most `max_damage` times the unsteered
    ones' on the same prompts."""
    texts = rows.partition_by(OPTION, maintain_order=True)
    within = (of for of in texts if met(_perplexity_ratio(of, unsteered, settings), high=max_damage) == "shown")
    return pl.concat([rows.clear(), *within])


def _above(score: Mapping[str, float], unsteered: Mapping[str, float], settings: IntervalSettings) -> PromptMean:
    """Mean score minus the unsteered texts', as of two independent groups: few unsteered texts vary, so pairing would gain nothing, and
    differences have twice the scale of scores."""
    a, b = (np.array([of[prompt] for prompt in score if prompt in unsteered]) for of in (score, unsteered))
    if not len(a):
        return PromptMean(None, None, 0)
    return PromptMean(float((a - b).mean()), difference_interval(a, b, settings.confidence, RATINGS), len(a))


def difference(
    first: Mapping[str, float], second: Mapping[str, float], settings: IntervalSettings, scale: Interval | None = None
) -> PromptMean:
    """First minus second over the prompts of both, each of a scale."""
    differences = [value - second[prompt] for prompt, value in first.items() if prompt in second]
    return estimated(differences, settings, None if scale is None else of_differences(scale))


def estimated(values: Iterable[float], settings: IntervalSettings, scale: Interval | None = None) -> PromptMean:
    """Their mean with an interval over prompts."""
    array = np.array(list(values))
    if not len(array):
        return PromptMean(None, None, 0)
    if scale is None:  # a text's loss is a mean over its tokens: none lies far from all others
        return PromptMean(float(array.mean()), student_interval(array, settings.confidence), len(array))
    return PromptMean(float(array.mean()), mean_interval(array, settings.confidence, scale), len(array))


def _perplexity_ratio(steered: pl.DataFrame, unsteered: pl.DataFrame, settings: IntervalSettings) -> PromptMean:
    """Perplexity of texts as a multiple of the unsteered ones': the geometric mean over prompts."""
    return as_multiple(difference(by_prompt(steered, "mean_nll"), by_prompt(unsteered, "mean_nll"), settings))


def as_multiple(rise: PromptMean) -> PromptMean:
    """A rise of the loss, in nats a token, as a multiple of the perplexity."""
    if rise.mean is None:
        return rise
    mean, *ends = (exp(min(nats, _MOST_NATS)) for nats in (rise.mean, *(rise.interval or ())))
    return PromptMean(mean, Interval(*ends) if ends else None, rise.n)


def by_prompt(rows: pl.DataFrame, column: str) -> dict[str, float]:
    known = rows.drop_nulls(column).group_by("prefix_id", maintain_order=True).agg(pl.col(column).cast(pl.Float64).mean())
    return dict(known.iter_rows())


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
