"""Which rule picks the feature of a concept that steers best, where every feature of a layer was steered and judged.

A concept's candidates are the features of a layer that are labelled with it. A rule picks the one with the largest value of a cheap
quantity; its score is the judge's on held-out prefixes, at a factor chosen without them. Beside the rules stand the mean over the
candidates (what a random pick reaches) and brute force: feature and factor with the largest score on one half of the prefixes, reported on
the other, both ways. That is no upper bound: a rule that sees no judge has no noise of a half's few texts to fall for.

Factors are chosen by the judge on the other half (`judge`), or by one of the rules of analysis.best_factor, which know no judge (`capped`,
`p1`); or not for each feature: `common` steers all features of a layer with one factor, so many times a_max, `scaled` with one multiple of
each feature's own max activation, by the nearest factor of the grid; both of the largest mean judge score on the other half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import polars as pl

from saesteer.core.uncertainty import (
    RATINGS,
    Interval,
    interval_columns,
    mean_columns,
    of_differences,
    student_t,
)
from saesteer.settings import SelectionSettings
from studies.questions.tables import CHOICE_RULES, FEATURE_RANKINGS

RULES = {
    "max_activation": "max activation",
    "density": "density",
    "output_score": "output score",
    "input_score": "input score",
    "delta_token_confidence": "delta token confidence",
}
"""Column of FEATURES -> what it is called: none reads the labels that the judge goes by."""
RANDOM, BEST = "random", "best"
STEERS = 1.0
"""A feature steers well from this held-out judge score on."""
TOP = (10, 50)
BY_JUDGE, COMMON, SCALED = "judge", "common", "scaled"
STRENGTHS = 2.0 ** np.arange(-6, 6.5, 0.5)
"""Multiples of a feature's max activation that `scaled` tries: further apart than the factors of a grid."""
_FEATURE = ["layer", "feature"]
_CONCEPT = ["layer", "concept"]
_Row = dict[str, Any]


def chosen_by_judge(steering: pl.DataFrame) -> pl.DataFrame:
    """STEERING -> layer, feature, half, strength (the positive factor of the largest judge score on the other half; ties: the smallest),
    chosen (that score) and judge_score (on this half at that factor)."""
    strength = pl.col("factor").cast(pl.Float64)
    rows = steering.filter(strength > 0).drop_nulls("judge_score").with_columns(half=pl.col("half").cast(pl.Int64), strength=strength)
    best = rows.sort("judge_score", "strength", descending=[True, False]).group_by(*_FEATURE, "half", maintain_order=True).first()
    chosen = best.select(*_FEATURE, "factor", "strength", half=1 - pl.col("half"), chosen="judge_score")
    reported = rows.select(*_FEATURE, "half", "factor", "judge_score")
    return (
        chosen.join(reported, on=[*_FEATURE, "half", "factor"])
        .select(*_FEATURE, "half", "strength", "chosen", "judge_score")
        .sort(*_FEATURE, "half")
    )


def by_judge(steering: pl.DataFrame) -> pl.DataFrame:
    """layer, feature, score: the held-out judge score of every judged feature at the factor that the other half's is largest at."""
    return chosen_by_judge(steering).group_by(_FEATURE).agg(score=pl.col("judge_score").mean()).sort(_FEATURE)


def held_out_scores(features: pl.DataFrame, steering: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """FEATURES, STEERING and OUTCOMES -> factor_rule, layer, feature, score: the held-out judge score of every feature that has one."""
    by_other_rules = outcomes.drop_nulls("judge_score").select(factor_rule="rule", **{name: name for name in _FEATURE}, score="judge_score")
    judged = by_judge(steering).select(pl.lit(BY_JUDGE).alias("factor_rule"), *_FEATURE, "score")
    return pl.concat([judged, by_other_rules, *one_strength(features, steering)]).sort("factor_rule", *_FEATURE)


def one_strength(features: pl.DataFrame, steering: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """factor_rule, layer, feature, score where all features of a layer have the same strength, of the largest mean judge score on the other
    half: in a_max (`common`), and in each feature's own max activation (`scaled`)."""
    strength = pl.col("factor").cast(pl.Float64)
    rows = steering.with_columns(strength=strength).filter(strength > 0).drop_nulls("judge_score")
    for (layer,), layer_rows in rows.group_by("layer", maintain_order=True):
        numbers, factors = (layer_rows[name].unique().sort() for name in ("feature", "strength"))
        scores = np.full((2, len(numbers), len(factors)), np.nan)
        places = (numbers.search_sorted(layer_rows["feature"]), factors.search_sorted(layer_rows["strength"]))
        scores[layer_rows["half"].cast(pl.Int64), places[0], places[1]] = layer_rows["judge_score"]
        scale = pl.DataFrame({"layer": layer, "feature": numbers}, schema=layer_rows.select(_FEATURE).schema).join(
            features, on=_FEATURE, how="left", maintain_order="left"
        )
        example = (scale["max_activation"] / scale["a_max"]).to_numpy()
        distance = np.abs(np.log(STRENGTHS[:, None, None] * example[:, None]) - np.log(factors.to_numpy()))  # [strength feature factor]
        same = np.repeat(np.arange(len(factors))[:, None], len(numbers), axis=1)  # [strength feature]
        for name, place in ((COMMON, same), (SCALED, distance.argmin(axis=2))):
            chosen = scale.select(pl.lit(name).alias("factor_rule"), *_FEATURE, score=pl.Series(_both_ways(scores, place)))
            yield chosen.filter(pl.col("score").is_not_nan())


def _both_ways(scores: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Each feature's score [half feature factor] at the strength, of `place` [strength feature], that does best on the other half."""
    at = scores[:, np.arange(scores.shape[1]), place]  # [half strength feature]
    best = np.nanmean(at, axis=2).argmax(axis=1)  # [half]
    reported: np.ndarray = (at[0, best[1]] + at[1, best[0]]) / 2
    return reported


def choice_rules(features: pl.DataFrame, steering: pl.DataFrame, outcomes: pl.DataFrame, settings: SelectionSettings) -> pl.DataFrame:
    """FEATURES, STEERING and OUTCOMES -> CHOICE_RULES, over the concepts that have at least two candidates with a score."""
    scores = held_out_scores(features, steering, outcomes).join(features.select(*_FEATURE, "concept", *RULES), on=_FEATURE)
    best = _best(chosen_by_judge(steering).join(features.select(*_FEATURE, "concept"), on=_FEATURE))
    lines = []
    for group in scores.partition_by("factor_rule", "layer", maintain_order=True):
        factor_rule, layer = group.select("factor_rule", "layer").row(0)
        picks = picked(group)
        if factor_rule == BY_JUDGE:
            picks = picks.join(best.filter(layer=layer).select("concept", BEST), on="concept")
        lines += list(_lines(picks, (factor_rule, layer), settings))
    return pl.DataFrame(lines, schema=CHOICE_RULES.schema).sort(CHOICE_RULES.keys)


def picked(candidates: pl.DataFrame, rules: Iterable[str] = RULES, value: str = "score") -> pl.DataFrame:
    """concept and, by rule, the score (or another `value`) of the candidate picked; null where no candidate has the quantity. Ties: the
    lowest number. Of concepts with at least two candidates."""

    def of(rule: str) -> pl.Expr:
        has_value = pl.col(rule).is_not_null()
        return (
            pl.col(value)
            .filter(has_value)
            .sort_by(pl.col(rule).filter(has_value), descending=True, maintain_order=True)
            .first()
            .alias(rule)
        )

    several = candidates.sort("feature").filter(pl.col("concept").is_not_null() & (pl.len().over("concept") > 1))
    return several.group_by("concept", maintain_order=True).agg(pl.col(value).mean().alias(RANDOM), *map(of, rules)).sort("concept")


def _best(halves: pl.DataFrame) -> pl.DataFrame:
    """layer, concept and the held-out score of the feature that the other half puts first, mean of both ways."""
    first = (
        halves.sort(*_FEATURE).sort("chosen", descending=True, maintain_order=True).group_by(*_CONCEPT, "half", maintain_order=True).first()
    )
    return first.group_by(_CONCEPT).agg(pl.col("judge_score").mean().alias(BEST)).sort(_CONCEPT)


def _lines(picked: pl.DataFrame, label: tuple[str, int], settings: SelectionSettings) -> Iterator[_Row]:
    for rule in [name for name in (BEST, *RULES, RANDOM) if name in picked.columns]:
        picks = picked.drop_nulls(rule)
        values, random = (picks[name].to_numpy() for name in (rule, RANDOM))
        line: _Row = {"factor_rule": label[0], "layer": label[1], "rule": rule, "n_concepts": picked.height, "n": picks.height}
        above = values[:0] if rule == RANDOM else values - random
        line |= mean_of(values, "score", settings) | mean_of(above, "above_random", settings, of_differences(RATINGS))
        yield line | {"share_of_best": float(values.sum() / picks[BEST].sum()) if BEST in picks.columns and picks[BEST].sum() > 0 else None}


def feature_rankings(features: pl.DataFrame, steering: pl.DataFrame, settings: SelectionSettings) -> pl.DataFrame:
    """FEATURES and STEERING -> FEATURE_RANKINGS: each quantity over a layer's judged features as a ranking of how well
    they steer, whatever their concepts."""
    scores = by_judge(steering).join(features.select(*_FEATURE, *RULES), on=_FEATURE)
    lines = []
    for layer in scores.partition_by("layer", maintain_order=True):
        number = int(layer["layer"][0])
        for rule in RULES:
            with_value = layer.drop_nulls(rule).sort("feature")
            quantity, score = (with_value[name].cast(pl.Float64).to_numpy() for name in (rule, "score"))
            steers = score >= STEERS
            line: _Row = {"layer": number, "rule": rule, "n": with_value.height, "n_steers": int(steers.sum())}
            line |= interval_columns("area", area_under_roc(quantity, steers), area_interval(quantity, steers, settings.confidence))
            first = np.argsort(-quantity, kind="stable")
            lines.append(line | {f"precision_{k}": float(steers[first[:k]].mean()) if len(steers) >= k else None for k in TOP})
    return pl.DataFrame(lines, schema=FEATURE_RANKINGS.schema).sort(FEATURE_RANKINGS.keys)


def area_under_roc(quantity: np.ndarray, steers: np.ndarray) -> float | None:
    """The probability that a feature that steers well has the larger quantity of two, one of either kind; equals count half. None where
    all are of a kind."""
    from scipy.stats import rankdata  # slow to import, and the dry run imports the figures that import this module

    n_steers, n_others = int(steers.sum()), int((~steers).sum())
    if not n_steers or not n_others:
        return None
    ranks = rankdata(quantity)
    return float((ranks[steers].sum() - n_steers * (n_steers + 1) / 2) / (n_steers * n_others))


def area_interval(quantity: np.ndarray, steers: np.ndarray, confidence: float) -> Interval | None:
    """Interval of `area_under_roc` over features: Student's t for the area's logit, with the larger of two standard errors, DeLong's
    (Biometrics 44, 1988, p. 837) and that of Hanley and McNeil (Radiology 143, 1982, p. 29), which few features need that are nearly in
    order. None for fewer than 2 of a kind."""
    ours, others = quantity[steers], quantity[~steers]
    m, n = len(ours), len(others)
    if min(m, n) < 2:
        return None
    above = (ours[:, None] > others) + 0.5 * (ours[:, None] == others)  # [steers other]
    parts = above.mean(1).var(ddof=1) / m, above.mean(0).var(ddof=1) / n
    area = float(np.clip(above.mean(), 0.5 / (m * n), 1 - 0.5 / (m * n)))  # half a pair from the ends, where the logit is infinite
    first, second = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    variance = max(sum(parts), (area * (1 - area) + (m - 1) * first + (n - 1) * second) / (m * n))
    df = sum(parts) ** 2 / (parts[0] ** 2 / (m - 1) + parts[1] ** 2 / (n - 1)) if sum(parts) else min(m, n) - 1
    reach = student_t(confidence, df) * variance**0.5 / (area * (1 - area))
    ends = (1 / (1 + np.exp(side * reach) * (1 - area) / area) for side in (1, -1))
    return Interval(*map(float, ends))


def mean_of(values: np.ndarray, name: str, settings: SelectionSettings, scale: Interval = RATINGS) -> _Row:
    """A mean over concepts of scores, or of what has another scale, with its interval: columns NAME, NAME_low and NAME_high."""
    return mean_columns(name, values, settings, scale=scale)
