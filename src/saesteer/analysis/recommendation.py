"""Which feature to steer with towards a concept, how hard, and whether anything else does better.

Candidates are few, picked by what steering needs no model for: features labelled with the concept, of those the ones with the largest
example (of the rules that studies/questions compares the one that came nearest to brute force). Feature and factor are then
chosen by the judge's mean score: on one half of the prompts for the scores reported on the other half, both ways, and on all prompts for
what is recommended. So the scores are those of the procedure, and owe nothing to the choice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import exp
from typing import Literal

import numpy as np
import polars as pl

from saesteer.analysis.halves import split_halves
from saesteer.analysis.recommended_factor import highest
from saesteer.core.uncertainty import RATINGS, Interval, difference_interval, mean_interval, of_differences
from saesteer.settings import IntervalSettings

STEERS = 1.0
"""The mean judge score (0 to 2) from which a recommendation is worth following: that of texts with both ratings 1. It has to lie below the
interval of the score, for a single concept's mean is of few prompts."""
FEATURE, UNSTEERED = "feature", "0"
N_PER_LAYER = 4
"""Candidates of a layer, unless another number is asked for."""
MATCHES = ("label", "explanation", "search", "examples", "lens", "lens, beginning", "direction")
"""How a candidate was found, in order."""
N_SAID = 3
"""The first of them: somebody says that the feature is about the concept."""
_LETTER = r"[\p{L}\p{M}\p{N}'’-]"
_MOST_TOKENS = 8
"""Tokens on each side of an example's maximum among which those of its word are."""
_MOST_NATS = 700.0
"""Of more no multiple is computed: it would be no float."""
Verdict = Literal["use", "harmful", "weak", "none"]
_OPTION = ["kind", "layer", "name"]


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its interval; None where nothing was rated."""

    mean: float | None
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Choice:
    """One kind of steering at its best: what is recommended, and the held-out scores of choosing so."""

    kind: str
    """FEATURE, or a method's name."""
    layer: int
    name: str
    """Number of the feature; of a method its name."""
    factor: str
    score: Estimate
    concept: Estimate
    fluency: Estimate
    above_unsteered: Estimate
    """Score minus the unsteered texts'."""
    by_prompt: Mapping[str, float]
    """Held-out score of each prompt."""
    concept_by_prompt: Mapping[str, float]
    """Held-out concept rating of each prompt."""


@dataclass(frozen=True)
class Damage:
    """What a rival breaks, as far as it is measured."""

    perplexity: Estimate
    """Of its texts, as a multiple of the unsteered ones'."""
    is_too_much: bool
    """Whether that is not seen to be within the limit."""


@dataclass(frozen=True)
class Fall:
    """How far the concept rating falls below the unsteered texts', held out, prompt by prompt (analysis.suppression)."""

    of_feature: Estimate
    of_control: Estimate
    """With features of the layer that nothing links to the concept, at the same factor."""
    beyond_control: Estimate
    """The first minus the second."""


@dataclass(frozen=True)
class Recommendation:
    """The verdict on a concept, and what it rests on."""

    concept: str
    verdict: Verdict
    feature: Choice | None
    rivals: tuple[Choice, ...]
    """Other methods, in descending order of their scores."""
    behind: tuple[Estimate, ...]
    """Of each rival: its score minus the feature's, prompt by prompt."""
    rivals_damage: tuple[Damage, ...] = ()
    """Of each rival, once damage is weighed."""
    fall: Fall | None = None
    """Where less of the concept is wanted."""


def candidates(features: pl.DataFrame, concept: str, n_per_layer: int) -> pl.DataFrame:
    """The first `n_per_layer` features of a layer -> layer, feature, match. First those that are said to be about the concept (its label, a
    word of the explanation, a search by meaning), in this order and then by their max activation. Then in turns those that show it (the
    word they fire on, a top logit-lens token, the beginning of the word among these tokens), in the same way, and those whose direction
    has the largest cosine with the concept's, if it is positive.

    features: FEATURES columns, fires_on (`fired_on`; may be null), near (whether such a search gave the feature) and, where it was
    computed, cosine.
    """
    by_match = features.with_columns(rank=_match(concept)).drop_nulls(["rank", "max_activation"])
    matched = by_match.sort("layer", "rank", "max_activation", "feature", descending=[False, False, True, False])
    listed = [matched]
    if "cosine" in features.columns:
        towards = features.filter(pl.col("cosine") > 0).with_columns(rank=pl.lit(len(MATCHES) - 1, pl.Int32))
        listed.append(towards.sort("layer", "cosine", "feature", descending=[False, True, False]))
    said = pl.col("rank") < N_SAID
    places = (of.select("layer", "feature", "rank", said=said, place=pl.int_range(pl.len()).over("layer", said)) for of in listed)
    ranked = pl.concat(places).sort("layer", "said", "place", "rank", descending=[False, True, False, False])
    first = ranked.unique(["layer", "feature"], keep="first", maintain_order=True).group_by("layer", maintain_order=True).head(n_per_layer)
    return first.select("layer", "feature", match=pl.col("rank").replace_strict(dict(enumerate(MATCHES)), return_dtype=pl.String))


def _match(concept: str) -> pl.Expr:
    """The place in MATCHES of how a feature matches the concept; null where it does not."""
    words = sorted(concept_words(concept))
    said, tokens = pl.coalesce("explanation", pl.lit("")).str.to_lowercase(), pl.col("top_logit_lens_tokens")
    beginnings = tokens.list.eval(_word(pl.element().filter(pl.element().str.contains("^[▁Ġ ]"))))
    rules = [
        pl.col("concept").str.to_lowercase() == concept.lower(),
        pl.all_horizontal(said.str.contains(word, literal=True) for word in words),
        pl.col("near"),
        _word(pl.col("fires_on")).is_in([form for word in words for form in (word, f"{word}s")]),
        pl.any_horizontal(tokens.list.eval(_word(pl.element())).list.contains(word) for word in words),
        pl.any_horizontal(beginnings.list.set_intersection(_beginnings(word)).list.len() > 0 for word in words),
    ]
    return pl.coalesce(pl.when(rule).then(pl.lit(place, pl.Int32)) for place, rule in enumerate(rules))


def concept_words(concept: str) -> set[str]:
    """The words of a concept's name by which features are found: those of more than two letters."""
    return {word for word in concept.lower().split() if len(word) > 2} or {concept.lower()}


def _beginnings(word: str) -> list[str]:
    """Those of a word that are at least half of it, and two letters: other words begin so too, but fewer."""
    return [word[:length] for length in range(max(2, (len(word) + 1) // 2), len(word))]


def fired_on(examples: pl.DataFrame) -> pl.DataFrame:
    """MAX_ACTIVATING_EXAMPLES -> layer, feature, fires_on: the word in which most of a feature's max-activating examples are largest, put
    together from its tokens; ties: the first in the alphabet."""
    every = examples.select("layer", "feature", "examples").explode("examples").drop_nulls("examples").unnest("examples")
    at, context = pl.col("token_index").cast(pl.Int64), pl.col("context").list
    start = (at - _MOST_TOKENS).clip(lower_bound=0)
    before, token, after = (
        text.str.replace_all("▁", " ")
        for text in (context.slice(start, at - start).list.join(""), pl.col("token"), context.slice(at + 1, _MOST_TOKENS).list.join(""))
    )
    head = pl.when(token.str.contains(rf"^{_LETTER}")).then(before.str.extract(rf"({_LETTER}*)$")).otherwise(pl.lit(""))
    tail = pl.when(token.str.contains(rf"{_LETTER}$")).then(after.str.extract(rf"^({_LETTER}*)")).otherwise(pl.lit(""))
    words = every.select("layer", "feature", fires_on=pl.concat_str(head, token.str.strip_chars(), tail).str.to_lowercase())
    counted = words.group_by("layer", "feature", "fires_on").len()
    most = counted.sort("layer", "feature", "len", "fires_on", descending=[False, False, True, False])
    return most.group_by("layer", "feature", maintain_order=True).agg(pl.col("fires_on").first())


def _word(token: pl.Expr) -> pl.Expr:
    """A token without what marks the beginning of a word, in lower case."""
    return token.str.strip_chars("▁Ġ ").str.to_lowercase()


def recommend(
    concept: str, rated: pl.DataFrame, unsteered: pl.DataFrame, settings: IntervalSettings, max_damage: float | None = None
) -> Recommendation:
    """The verdict from the ratings of features' and other methods' texts.

    rated: kind (feature, or a method's), layer, name, factor, prefix_id, judge_score, concept_rating, fluency_rating: texts at positive
    factors, prompts in their order. unsteered: prefix_id, judge_score. max_damage: as of `harmless`, for which both have mean_nll.
    """
    choices = {kind: best_choice(rated, unsteered, kind, settings, max_damage) for kind in sorted(set(rated["kind"]))}
    feature = choices.pop(FEATURE, None)
    rivals = sorted((choice for choice in choices.values() if choice), key=lambda choice: -(choice.score.mean or 0.0))
    behind = tuple(difference(rival.by_prompt, feature.by_prompt if feature else {}, settings, RATINGS) for rival in rivals)
    return Recommendation(concept, verdict_of(feature), feature, tuple(rivals), behind)


def best_choice(
    rated: pl.DataFrame, unsteered: pl.DataFrame, kind: str, settings: IntervalSettings, max_damage: float | None = None
) -> Choice | None:
    """The option of highest mean score on all prompts, of those that are `harmless`, with the scores of choosing so held out; None where
    nothing is rated, or harmless."""
    rows, allowed = rated.filter(kind=kind), partial(harmless, unsteered=unsteered, settings=settings, max_damage=max_damage)
    best = _best(allowed(rows))
    if best.is_empty():
        return None
    held_out = pl.concat(_at(choice, of_half) for choice, of_half in choices_by_half(rated, rows, allowed))
    score, concept, fluency = (by_prompt(held_out, column) for column in ("judge_score", "concept_rating", "fluency_rating"))
    ((_, layer, name, factor),) = best.rows()
    return Choice(
        kind,
        layer,
        name,
        factor,
        estimated(score.values(), settings, RATINGS),
        estimated(concept.values(), settings, RATINGS),
        estimated(fluency.values(), settings, RATINGS),
        _above(score, by_prompt(unsteered, "judge_score"), settings),
        score,
        concept,
    )


def choices_by_half(
    rated: pl.DataFrame, rows: pl.DataFrame, allowed: Callable[[pl.DataFrame], pl.DataFrame]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """For each half of the prompts: kind, layer, name, factor of what is best among the `rows` on the other half that are allowed there,
    and the half's rows of all that was rated."""
    halves = split_halves(rated["prefix_id"].unique(maintain_order=True))
    half = pl.col("prefix_id").replace_strict(halves, return_dtype=pl.Int64)
    for reported in (0, 1):
        yield _best(allowed(rows.filter(half != reported))), rated.filter(half == reported).drop_nulls("judge_score")


def harmless(rows: pl.DataFrame, unsteered: pl.DataFrame, settings: IntervalSettings, max_damage: float | None) -> pl.DataFrame:
    """The rows of each option and factor whose texts' perplexity is seen, by its interval, to be at most `max_damage` times the unsteered
    ones' on the same prompts; None: all."""
    if max_damage is None:
        return rows
    texts = rows.partition_by(*_OPTION, "factor", maintain_order=True)
    return pl.concat([rows.clear(), *(of for of in texts if not is_above(_perplexity_ratio(of, unsteered, settings), max_damage))])


def _above(score: Mapping[str, float], unsteered: Mapping[str, float], settings: IntervalSettings) -> Estimate:
    """Mean score minus the unsteered texts', which are a group of their own: few unsteered texts vary, so pairs would add nothing but the
    scale of differences, twice as wide as that of scores."""
    a, b = (np.array([of[prompt] for prompt in score if prompt in unsteered]) for of in (score, unsteered))
    if not len(a):
        return Estimate(None, None, 0)
    return Estimate(float((a - b).mean()), difference_interval(a, b, settings.confidence, RATINGS), len(a))


def difference(
    first: Mapping[str, float], second: Mapping[str, float], settings: IntervalSettings, scale: Interval | None = None
) -> Estimate:
    """First minus second over the prompts of both, each of a scale."""
    differences = [value - second[prompt] for prompt, value in first.items() if prompt in second]
    return estimated(differences, settings, None if scale is None else of_differences(scale))


def estimated(values: Iterable[float], settings: IntervalSettings, scale: Interval | None = None) -> Estimate:
    """Their mean with an interval over prompts."""
    array = np.array(list(values))
    if not len(array):
        return Estimate(None, None, 0)
    return Estimate(float(array.mean()), mean_interval(array, settings.confidence, scale), len(array))


def perplexity_ratio(choice: Choice, rated: pl.DataFrame, unsteered: pl.DataFrame, settings: IntervalSettings) -> Estimate:
    """Perplexity of a choice's texts as a multiple of the unsteered ones': the geometric mean over prompts. Both have mean_nll."""
    steered = rated.filter(kind=choice.kind, layer=choice.layer, name=choice.name, factor=choice.factor)
    return _perplexity_ratio(steered, unsteered, settings)


def _perplexity_ratio(steered: pl.DataFrame, unsteered: pl.DataFrame, settings: IntervalSettings) -> Estimate:
    return as_multiple(difference(by_prompt(steered, "mean_nll"), by_prompt(unsteered, "mean_nll"), settings))


def weighed(
    recommendation: Recommendation, damage: Iterable[Estimate | None], of_rivals: Iterable[Estimate], limit: float
) -> Recommendation:
    """The recommendation once damage is known: harmful where use would be said but a multiple of the unsteered perplexity is not seen to be
    within the limit. A damage that is None was not measured, and decides nothing. of_rivals: the same of each rival's texts."""
    rivals_damage = tuple(Damage(one, is_above(one, limit)) for one in of_rivals)
    too_much = any(one is not None and is_above(one, limit) for one in damage)
    verdict: Verdict = "harmful" if recommendation.verdict == "use" and too_much else recommendation.verdict
    return replace(recommendation, verdict=verdict, rivals_damage=rivals_damage)


def is_above(damage: Estimate, limit: float) -> bool:
    """Whether a multiple of the unsteered perplexity is not seen, by its interval, to be at most the limit."""
    return damage.interval is None or not damage.interval.high <= limit  # NaN: logits were not finite


def as_multiple(rise: Estimate) -> Estimate:
    """A rise of the loss, in nats a token, as a multiple of the perplexity."""
    if rise.mean is None or rise.interval is None:
        return rise
    mean, low, high = (exp(min(nats, _MOST_NATS)) for nats in (rise.mean, *rise.interval))
    return Estimate(mean, Interval(low, high), rise.n)


def verdict_of(choice: Choice | None) -> Verdict:
    """By the ratings alone. use: better than unsteered and STEERS or more, both by their intervals; weak: better only; none: not seen to be
    better."""
    if choice is None or choice.above_unsteered.interval is None or choice.above_unsteered.interval.low <= 0:
        return "none"
    return "use" if is_worth_following(choice) else "weak"


def is_worth_following(choice: Choice) -> bool:
    """Whether the interval of its held-out score begins at STEERS or above."""
    return choice.score.interval is not None and choice.score.interval.low >= STEERS


def _best(rows: pl.DataFrame) -> pl.DataFrame:
    """kind, layer, name, factor of the highest mean score, chosen as every recommended factor is."""
    means = rows.group_by(*_OPTION, "factor").agg(pl.col("judge_score").mean()).sort(*_OPTION, "factor")
    return highest(means, ["kind"]).select(*_OPTION, "factor")


def _at(choice: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.join(choice, on=[*_OPTION, "factor"], how="semi")


def by_prompt(rows: pl.DataFrame, column: str) -> dict[str, float]:
    known = rows.drop_nulls(column).group_by("prefix_id", maintain_order=True).agg(pl.col(column).cast(pl.Float64).mean())
    return dict(known.iter_rows())
