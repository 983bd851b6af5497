"""Which factor a feature is steered with: chosen on one half of the prefixes, reported on the other.

Two rules. `p1` is the rule of P1 (arXiv 2505.20063, steering experiments): drop factors with GenSuccess@20 above a limit
(degenerate repetition), then maximise GenSuccess@20 over perplexity, each over its maximum. It divides by perplexity without
bounding it. `capped` bounds it: the largest GenSuccess@20 among factors whose perplexity is at most a multiple of the unsteered
text's; without a cap the winner is often the strongest factor and its text one repeated token.

Perplexity is that of the continuation given its prefix, and the geometric mean over texts; or, by the setting of that name, the arithmetic
mean, of continuations or of prefix and continuation together. P1's program reads a `mean_perplexity` whose producer is not public: the
last is what Hugging Face's metric has under that name.

Choosing and reporting on the same texts inflates the result, so each half reports at the factor chosen on the other half. A
feature's rows depend on its own rows only.

How hard to steer with a feature is one recommended factor, the same in every command and in the report. It is chosen on all prompts: by the
highest mean judge score where the feature's texts were judged, otherwise by the capped rule. Only the choice is made here: the scores that
are reported of choosing a factor are held out (`outcomes`), those of a recommendation are of prompts that took no part
(`recommendations.scoring`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from saesteer.analysis.tables import BEST_FACTORS, OUTCOMES
from saesteer.settings import BestFactorSettings

RULES = {"p1": "P1's rule", "capped": "capped perplexity"}
"""Rule -> what figures and tables call it."""
PERPLEXITIES = {
    "continuation": "log_perplexity",
    "continuation_arithmetic": "mean_perplexity",
    "whole_text": "whole_text_perplexity",
}
"""What choices can go by (settings: best_factor.perplexity) -> the column that has it; that of the first is its logarithm."""
_OF_FACTOR = ("gen_success_20", "log_perplexity", "concept_rating", "fluency_rating", "judge_score")
REPORTED = ("net_gen_success_20", "net_concept_outside", *_OF_FACTOR)
_FEATURE = ["layer", "feature"]
# The mean over all prefixes weights each half's mean by the texts behind it.
_WEIGHTS = {
    "gen_success_20": "n",
    "log_perplexity": "n_perplexity",
    "mean_perplexity": "n_perplexity",
    "whole_text_perplexity": "n",
    "concept_rating": "n_concept",
    "concept_outside": "n_outside",
    "fluency_rating": "n_fluency",
    "judge_score": "n_judged",
}
PERPLEXITY_CAP = 4.0
"""capped: factors whose perplexity is above this multiple of the unsteered text's are dropped."""
BY_SUCCESS = "GenSuccess@20 under the perplexity cap, on all prompts"
BY_PERPLEXITY = "the lowest perplexity, since no factor is under the perplexity cap, on all prompts"
"""What chose a recommended factor without a judge, in words."""
TIE = 1e-9
"""Values closer than this are equal but for rounding."""
_RECOMMENDED = {"layer": pl.UInt16, "feature": pl.UInt32, "factor": pl.String, "chosen_by": pl.String}
_Row = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """What one half of the prefixes says about a feature's factors, ascending."""

    factors: tuple[str, ...]
    gen_success: Float[np.ndarray, " factor"]
    """Mean GenSuccess@20."""
    log_perplexity: Float[np.ndarray, " factor"]
    """Logarithm of the mean perplexity: of continuations, the mean loss in nats per token; NaN where every continuation is empty."""

    @property
    def positive(self) -> Bool[np.ndarray, " factor"]:
        """Which factors steer at all."""
        return np.array([float(factor) > 0 for factor in self.factors])


def p1_ratio(curve: Curve, gen_success_limit: float) -> Float[np.ndarray, " factor"]:
    """(GS / max GS) / (perplexity / max perplexity) of positive factors with GS <= limit, the maxima theirs; NaN for the others.

    Factors whose texts are all empty have no perplexity and are left out. NaN everywhere when no factor is left, or none left has any
    success (the ratio is 0/0): steering failed.
    """
    allowed = curve.positive & (curve.gen_success <= gen_success_limit) & np.isfinite(curve.log_perplexity)
    ratio = np.full(len(curve.factors), np.nan)
    if (curve.gen_success[allowed] > 0).any():
        success, log_perplexity = curve.gen_success[allowed], curve.log_perplexity[allowed]
        ratio[allowed] = (success / success.max()) / np.exp(log_perplexity - log_perplexity.max())
    return ratio


def first_largest(values: Float[np.ndarray, " factor"]) -> int | None:
    """The place of the largest value, of those that are equal but for rounding the first; None where all are NaN."""
    if np.isnan(values).all():
        return None
    return int((values >= np.nanmax(values) - TIE).argmax())


def choose_p1(curve: Curve, gen_success_limit: float) -> str | None:
    """P1's factor: the largest `p1_ratio`; ties: the smallest factor. None: steering failed."""
    place = first_largest(p1_ratio(curve, gen_success_limit))
    return None if place is None else curve.factors[place]


def choose_capped(curve: Curve, perplexity_cap: float) -> str | None:
    """The positive factor of largest GS whose perplexity is at most cap times the unsteered one's; ties: the smallest.

    When no factor is under the cap, or there is no unsteered perplexity to compare with, the one of lowest perplexity. None when
    GS is 0 at every positive factor, or every text of every positive factor is empty: steering failed.
    """
    readable = curve.positive & np.isfinite(curve.log_perplexity)
    if not readable.any() or not (curve.gen_success[curve.positive] > 0).any():
        return None
    under_cap = are_under_cap(curve, perplexity_cap)
    if under_cap.any():
        return curve.factors[np.where(under_cap, curve.gen_success, -1.0).argmax()]
    return curve.factors[np.where(readable, curve.log_perplexity, np.inf).argmin()]


def are_under_cap(curve: Curve, perplexity_cap: float) -> Bool[np.ndarray, " factor"]:
    """The positive factors whose perplexity is at most cap times the unsteered one's; none where that is unknown."""
    limit = curve.log_perplexity[curve.factors.index("0")] + np.log(perplexity_cap) if "0" in curve.factors else np.nan
    return curve.positive & np.isfinite(curve.log_perplexity) & (curve.log_perplexity <= limit)


def best_factors(steering: pl.DataFrame, settings: BestFactorSettings) -> pl.DataFrame:
    """STEERING -> BEST_FACTORS: for each feature and rule the factor chosen, and what the texts reported on say at it.

    Held out: both directions of the split, `reported_on` naming the half that reports. Same texts (P1's own procedure): both
    halves together, `reported_on` "all".
    """
    if settings.factor_choice == "same_texts":
        steering = both_halves(steering).with_columns(pl.lit("all").alias("half"))
    else:
        steering = steering.with_columns(pl.col("half").cast(pl.String))
    features = steering.sort(*_FEATURE, "half", pl.col("factor").cast(pl.Float64)).partition_by(_FEATURE)
    rows = [row for feature in features for row in _feature_rows(feature.to_dicts(), settings)]
    return pl.DataFrame(rows, schema=BEST_FACTORS.schema)


def both_halves(steering: pl.DataFrame) -> pl.DataFrame:
    """Per layer, feature and factor `n` and the means over all prefixes: the halves' means weighted by the texts behind them."""
    means = [pl.col("n").sum()]
    for column, weight in _WEIGHTS.items():
        known = pl.col(weight).cast(pl.Float64) * pl.col(column).is_not_null()
        total = (pl.col(column) * known).sum()
        means.append(pl.when(known.sum() > 0).then(total / known.sum()).alias(column))
    return steering.group_by(*_FEATURE, "factor").agg(means).sort(*_FEATURE, pl.col("factor").cast(pl.Float64))


def _feature_rows(rows: list[_Row], settings: BestFactorSettings) -> Iterator[_Row]:
    halves: dict[str, dict[str, _Row]] = {}
    for row in rows:
        halves.setdefault(row["half"], {})[row["factor"]] = row
    has_concept = any(row["concept_rating"] is not None for row in rows)
    _check_same_factors(halves, rows[0])
    for reported_on, reported in halves.items():
        chosen_on = halves["all"] if reported_on == "all" else halves["1" if reported_on == "0" else "0"]
        curve = curve_of(chosen_on, settings.perplexity)
        choices = {"p1": choose_p1(curve, settings.gen_success_limit), "capped": choose_capped(curve, PERPLEXITY_CAP)}
        for rule in RULES:
            key = {"layer": rows[0]["layer"], "feature": rows[0]["feature"], "rule": rule, "reported_on": reported_on}
            yield key | _report(choices[rule], reported, has_concept, bool(np.isfinite(curve.gen_success[curve.positive]).any()))


def _check_same_factors(halves: dict[str, dict[str, _Row]], first: _Row) -> None:
    expected = ({"0", "1"}, {"all"})
    if set(halves) not in expected or len({tuple(half) for half in halves.values()}) != 1:
        factors = {name: sorted(half) for name, half in halves.items()}
        raise ValueError(
            f"table steering: layer {first['layer']}, feature {first['feature']}: both halves of the prefixes need the same factors, "
            f"found {factors}; compute the sweep's missing rows first"
        )


def curve_of(half: dict[str, _Row], perplexity: str) -> Curve:
    """Factor -> STEERING columns, ascending, as a curve with the perplexity that the settings name."""
    success, mean = (
        np.array([row[name] for row in half.values()], dtype=np.float64) for name in ("gen_success_20", PERPLEXITIES[perplexity])
    )
    return Curve(tuple(half), success, mean if perplexity == "continuation" else np.log(mean))


def _report(factor: str | None, reported: dict[str, _Row], has_concept: bool, has_texts: bool) -> _Row:
    """What the texts reported on say at the factor; steering that failed counts as success 0, and as rated 0 where it could be rated;
    where there are no texts to choose by, nothing is known. Net success is that minus the success of the same prompts' unsteered texts,
    which is large where a feature's top logit-lens tokens are common words."""
    at_end = None
    values: _Row = dict.fromkeys((*_OF_FACTOR, "concept_outside"))
    if factor is None:
        has_outside = any(row["concept_outside"] is not None for row in reported.values())
        known = {"gen_success_20": has_texts, "judge_score": has_concept, "concept_outside": has_outside}
        values |= {name: 0.0 for name, is_known in known.items() if is_known}
    else:
        positive = [candidate for candidate in reported if float(candidate) > 0]
        at_end = factor in (positive[0], positive[-1])
        values = {column: reported[factor][column] for column in values}
    nets = {f"net_{name}": _difference(values[name], reported.get("0", {}).get(name)) for name in ("gen_success_20", "concept_outside")}
    return {"factor": factor, "at_grid_end": at_end} | nets | {column: values[column] for column in _OF_FACTOR}


def _difference(steered: float | None, unsteered: float | None) -> float | None:
    return None if steered is None or unsteered is None else steered - unsteered


def outcomes(best_factors: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """BEST_FACTORS and FEATURES -> OUTCOMES: a feature's held-out result, the mean of both directions of the split, with its scores.

    Means leave out directions in which the quantity is missing; success and judge score are 0, not missing, where steering failed.
    """
    directions = best_factors.sort(*_FEATURE, "rule", "reported_on")
    combined = directions.group_by(*_FEATURE, "rule", maintain_order=True).agg(
        pl.col("factor").alias("factors"),
        pl.col("at_grid_end").fill_null(False).sum().cast(pl.UInt8).alias("n_at_grid_end"),
        pl.col(list(REPORTED)).mean(),
    )
    scores = features.select(*_FEATURE, "input_score", "output_score", "concept")
    return combined.join(scores, on=_FEATURE, how="inner").select(list(OUTCOMES.columns)).sort(OUTCOMES.keys)


def recommended_factors(steering: pl.DataFrame, settings: BestFactorSettings) -> pl.DataFrame:
    """STEERING -> layer, feature, factor, chosen_by: the recommended factor of each feature, and what chose it, in words.

    factor is null where steering failed: no text at any factor has a judge score above 0, or, without a judge, a success.
    """
    means = both_halves(steering)
    by_judge = factors_by_judge(means)
    rows = []
    for feature in means.join(by_judge, on=_FEATURE, how="anti").partition_by(_FEATURE, maintain_order=True):
        curve = curve_of({row["factor"]: row for row in feature.to_dicts()}, settings.perplexity)
        factor = choose_capped(curve, PERPLEXITY_CAP)
        chosen_by = BY_SUCCESS if factor is None or are_under_cap(curve, PERPLEXITY_CAP).any() else BY_PERPLEXITY
        rows.append((*feature.select(_FEATURE).row(0), factor, chosen_by))
    return pl.concat([by_judge, pl.DataFrame(rows, schema=_RECOMMENDED, orient="row")]).sort(_FEATURE)


def factors_by_judge(means: pl.DataFrame) -> pl.DataFrame:
    """The recommended factor of the features that have a judge score, a positive one; means: layer, feature, factor, judge_score."""
    best = highest(means.filter(pl.col("factor").cast(pl.Float64) > 0), _FEATURE)
    chosen = pl.when(pl.col("judge_score") > 0).then("factor")
    return best.select(*_FEATURE, factor=chosen, chosen_by=pl.lit("judge score, on all prompts"))


def highest(means: pl.DataFrame, of: Sequence[str]) -> pl.DataFrame:
    """Each group's row with the highest mean judge score; ties (but for rounding): the factor nearest to 0, an ablation,
    which has none, before all factors, then the first row. Groups without a judge score have none."""
    number, score = pl.col("factor").str.extract(r"(\S+)$"), pl.col("judge_score")
    strength = number.cast(pl.Float64, strict=False).abs().fill_null(0.0)
    best = means.drop_nulls("judge_score").filter(score >= score.max().over(of) - TIE).sort(*of, strength, maintain_order=True)
    return best.group_by(of, maintain_order=True).first()
