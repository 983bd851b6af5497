"""The protocol that every method is held to: which prompts choose the factor, which report, and what a concept's score is.

Half of the prompts choose a method's factor for a concept by their texts' mean score (or by P1's rule, see analysis.best_factor), the
other half report, and both directions are averaged (P4, arXiv 2501.17148, section 4, in one direction; P2, arXiv 2411.02193, chooses and
reports on the same texts). An unrated text is missing, never 0. Where a method abstains, its concept counts with what the unsteered method
scores on the same half. No result depends on the order in which rows come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from saesteer.analysis.best_factor import PERPLEXITIES, TIE, Curve, first_largest, p1_ratio
from saesteer.analysis.halves import split_halves
from saesteer.analysis.score import harmonic_mean
from saesteer.core.errors import SaesteerError
from saesteer.core.texts import FIT_TEXT, RATING_COLUMNS
from saesteer.core.uncertainty import RATINGS, SHARES, Interval
from saesteer.methods.compare.tables import METHOD_CHOICES, METHOD_HALVES, METHOD_SCORES
from saesteer.settings import BestFactorSettings, registry
from saesteer.settings.methods import ProtocolSettings
from saesteer.settings.registry import Method

UNSTEERED = "unsteered"
FIT = ["layer", "method", "concept_id"]
_MEASURES = ("score", *RATING_COLUMNS, "concept_log_odds", "log_perplexity")
_DIRECTIONS = {"held_out": ((0, 1), (1, 0)), "first_half": ((0, 1),), "same_texts": ((0, 0),)}  # half that chooses, half that reports
_ENDS = {"low": "smallest", "high": "largest"}
_ADDS_TEXT = [row.key for row in registry.METHODS if row.adds_text]
_SUCCESS = {**dict.fromkeys(FIT_TEXT, pl.String), "layer": pl.UInt16, "sample": pl.UInt32, "gen_success_20": pl.UInt16}
_FEATURES = {"layer": pl.UInt16, "feature": pl.UInt32, "density": pl.Float64, "concept": pl.String, "concept_share": pl.Float64}


@dataclass(frozen=True)
class Rows:
    """What there is of a comparison: FITS and COMPARED_CONCEPTS, and rows of texts with the keys FIT_TEXT."""

    texts: pl.DataFrame
    perplexity: pl.DataFrame
    judgements: pl.DataFrame
    fits: pl.DataFrame
    concepts: pl.DataFrame
    success: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_SUCCESS))
    """GEN_SUCCESS: fits with a count here choose by P1's rule, all others by the score."""
    features: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_FEATURES))
    """Columns of the table of features: statements about the SAE features used rest on them, no score does."""


class ProtocolError(SaesteerError, ValueError):
    """Rows that the protocol cannot be applied to; the message says which and what to do."""


def row_of(key: str) -> Method:
    """The registry's row of a method's key in tables."""
    for row in registry.METHODS:
        if row.key == key:
            return row
    raise ProtocolError(
        f"no method of saesteer.settings.registry has the key {key!r}; keys there: {', '.join(row.key for row in registry.METHODS)}"
    )


def prompt_halves(prefix_ids: Sequence[str], factor_choice: str) -> dict[str, int]:
    """`split_halves` of prompts, refused where one half would be empty."""
    if len(set(prefix_ids)) < len(prefix_ids) or (len(prefix_ids) < 2 and factor_choice != "same_texts"):
        raise ProtocolError(f"{factor_choice}: two prompts at least are needed, each once; given: {list(prefix_ids)}")
    return split_halves(prefix_ids, factor_choice)


def method_halves(rows: Rows, halves: Mapping[str, int], score: str, best_factor: BestFactorSettings) -> pl.DataFrame:
    """Texts and what was measured on them -> METHOD_HALVES, for every fit that does not abstain."""
    texts = _texts(rows, halves).with_columns(text_score=_text_score(score))
    means = texts.group_by(METHOD_HALVES.keys, maintain_order=True).agg(
        pl.len().cast(pl.UInt32).alias("n"),
        pl.col("text_score").is_null().sum().cast(pl.UInt32).alias("n_missing"),
        pl.col("text_score").mean(),
        pl.col(*RATING_COLUMNS, "concept_log_odds").mean(),
        *(pl.col(name).filter(pl.col("text_score").is_not_null()).mean().alias(f"{name}_scored") for name in RATING_COLUMNS),
        pl.col("mean_nll").mean().alias("log_perplexity"),
        pl.col("mean_nll").exp().mean().alias("mean_perplexity"),
        pl.col("whole_text_nll").exp().mean().alias("whole_text_perplexity"),
        pl.col("gen_success_20").mean(),
    )
    scores = means.with_columns(score=_of_means(score))
    ratios = scores.join(_p1_ratios(scores, best_factor), on=METHOD_HALVES.keys, how="left")
    half_means = ratios.with_columns(
        choose_by=pl.when(pl.col("gen_success_20").is_null().all().over(FIT)).then("score").otherwise("p1_ratio")
    )
    _refuse_gaps(half_means, rows.fits, set(halves.values()))
    return half_means.select(list(METHOD_HALVES.columns)).sort(METHOD_HALVES.keys)


def _texts(rows: Rows, halves: Mapping[str, int]) -> pl.DataFrame:
    """A row a text of fits that do not abstain, in the order of its key, with its ratings, loss and half."""
    _refuse_unknown(rows, halves)
    keys = list(FIT_TEXT)
    fitted = rows.fits.filter(pl.col("kind").is_not_null()).select(FIT)
    ratings = [pl.col(name).cast(pl.Float64) for name in RATING_COLUMNS]
    texts = rows.texts.select(keys).join(fitted, on=FIT, how="semi")
    texts = texts.join(rows.judgements.select(*keys, *ratings, "concept_log_odds", "judge_score"), on=keys, how="left")
    texts = texts.join(rows.perplexity.select(*keys, "mean_nll", "whole_text_nll"), on=keys, how="left")
    texts = texts.join(rows.success.select(*keys, "gen_success_20"), on=keys, how="left")
    return texts.sort(keys).with_columns(half=pl.col("prefix_id").replace_strict(dict(halves), return_dtype=pl.UInt8))


def _p1_ratios(scores: pl.DataFrame, settings: BestFactorSettings) -> pl.DataFrame:
    """Keys of METHOD_HALVES and p1_ratio, where GenSuccess is known: null where the factor may not be chosen."""
    successes = scores.drop_nulls("gen_success_20").sort(*FIT, "half", pl.col("factor").cast(pl.Float64))
    ratios: list[float] = []
    mean = pl.col(PERPLEXITIES[settings.perplexity])
    log_mean = mean if settings.perplexity == "continuation" else mean.log()
    successes = successes.with_columns(log_mean=log_mean.fill_null(float("nan")))
    for curve in successes.partition_by(*FIT, "half", maintain_order=True):
        points = Curve(tuple(curve["factor"]), curve["gen_success_20"].to_numpy(), curve["log_mean"].to_numpy())
        ratios += p1_ratio(points, settings.gen_success_limit).tolist()
    return successes.select(METHOD_HALVES.keys).with_columns(p1_ratio=pl.Series(ratios, dtype=pl.Float64).fill_nan(None))


def _refuse_unknown(rows: Rows, halves: Mapping[str, int]) -> None:
    """Every text is of a fit and a prompt that are there."""
    keys = list(FIT_TEXT)
    unknown = rows.texts.join(rows.fits.select(FIT), on=FIT, how="anti").select(FIT).unique().sort(FIT)
    if unknown.height:
        raise ProtocolError(f"table generations holds texts of a fit that table fits does not: {unknown.row(0, named=True)}")
    unlisted = rows.texts.filter(~pl.col("prefix_id").is_in(list(halves))).select(keys).sort(keys)
    if unlisted.height:
        raise ProtocolError(
            f"table generations holds a prompt that is not among the experiment's {len(halves)}: {unlisted.row(0, named=True)}"
        )


def _text_score(score: str) -> pl.Expr:
    """A text's own score, null where a rating that is needed is: P4's harmonic mean; for P2, which leaves instructions out, concept and
    fluency together. Where the score is one of means, only the null counts."""
    if score == "product_of_means":
        return pl.col("concept_rating") + pl.col("fluency_rating")
    return pl.col("judge_score")


def _of_means(score: str) -> pl.Expr:
    """The score of a concept, factor and half: the mean of the texts' own scores (P4); or, of the mean ratings of its scored texts, P2's
    product of concept and fluency, each over 2, or P1's harmonic mean, of two where there is no instruction."""
    concept, instruction, fluency = (f"{name}_scored" for name in RATING_COLUMNS)
    if score == "harmonic_mean":
        return pl.col("text_score")
    if score == "product_of_means":
        return pl.col(concept) / 2 * pl.col(fluency) / 2
    mean_of_both = harmonic_mean((concept, fluency))
    return pl.when(pl.col(instruction).is_null()).then(mean_of_both).otherwise(harmonic_mean((concept, instruction, fluency)))


def _refuse_gaps(half_means: pl.DataFrame, fits: pl.DataFrame, halves: set[int]) -> None:
    """Every fit that does not abstain needs texts, in every half at the same factors."""
    missing = fits.filter(pl.col("kind").is_not_null()).join(half_means, on=FIT, how="anti").select(FIT).sort(FIT)
    if missing.height:
        raise ProtocolError(f"table generations has no text of {missing.row(0, named=True)}: compute its missing rows first")
    counts = half_means.group_by(*FIT, "factor").agg(pl.col("half").n_unique()).filter(pl.col("half") < len(halves)).sort(*FIT, "factor")
    if counts.height:
        where = counts.select(*FIT, "factor").row(0, named=True)
        raise ProtocolError(f"table generations has texts of {where} in one half of the prompts only: compute its missing rows first")


def method_choices(halves: pl.DataFrame, fits: pl.DataFrame, factor_choice: str) -> pl.DataFrame:
    """METHOD_HALVES -> METHOD_CHOICES: for each fit and half reported on the factor that the other chose, and what it is worth there.
    fits: FIT and `kind`, which is null where the method abstains."""
    directions = pl.DataFrame(_DIRECTIONS[factor_choice], schema={"chosen_on": pl.UInt8, "half": pl.UInt8}, orient="row")
    directed = fits.select(*FIT, abstains=pl.col("kind").is_null()).join(directions, how="cross")
    best = _best_factors(halves).rename({"half": "chosen_on"})
    chosen = directed.join(best, on=[*FIT, "chosen_on"], how="left").join(halves, on=[*FIT, "factor", "half"], how="left")
    label = pl.lit("all") if factor_choice == "same_texts" else pl.col("half").cast(pl.String)
    score = pl.when(pl.col("steering_failed")).then(0.0).otherwise("score")
    reported = chosen.with_columns(label.alias("reported_on"), pl.col("n", "n_missing").fill_null(0), score=score)
    return _stand_ins(reported).select(list(METHOD_CHOICES.columns)).sort(METHOD_CHOICES.keys)


def _best_factors(halves: pl.DataFrame) -> pl.DataFrame:
    """Per fit and half: the factor of the largest `choose_by`, of equals the smallest, and whether it is the smallest or the largest of the
    method's; null where all factors are worth the same, so that none is preferred.

    A factor without one cannot be chosen; where there is one factor only the score has nothing to choose. Where P1's rule leaves no factor,
    steering failed.
    """
    number = pl.col("factor").cast(pl.Float64)
    grids = halves.group_by("layer", "method").agg(low=number.min(), high=number.max(), grid=pl.col("factor").n_unique())
    ordered = halves.sort(*FIT, "half", number).group_by(*FIT, "half", maintain_order=True)
    value = pl.col("choose_by")
    curves = ordered.agg("factor", value, varies=value.max() - value.min() > TIE, by_p1=pl.col("gen_success_20").is_not_null().any())
    curves = curves.join(grids, on=["layer", "method"], how="left")
    chosen: list[str | None] = []
    for factors, values, by_p1 in curves.select("factor", "choose_by", "by_p1").iter_rows():
        place = 0 if len(factors) == 1 and not by_p1 else first_largest(np.array(values, dtype=np.float64))
        chosen.append(None if place is None else factors[place])
    best = curves.with_columns(factor=pl.Series(chosen, dtype=pl.String))
    prefers = ~pl.col("method").is_in(_ADDS_TEXT) & (pl.col("grid") > 1) & pl.col("varies")
    at_ends = (pl.when(prefers).then(number == pl.col(end)).alias(f"at_{name}") for end, name in _ENDS.items())
    failed = pl.col("by_p1") & pl.col("factor").is_null()
    return best.with_columns(*at_ends, steering_failed=failed).select(
        *FIT, "half", "factor", "at_smallest", "at_largest", "steering_failed"
    )


def _stand_ins(choices: pl.DataFrame) -> pl.DataFrame:
    """The unsteered method's score wherever a method abstains, on the same half of the same concept; null where it has none."""
    place = ["layer", "concept_id", "reported_on"]
    unsteered = choices.filter(~pl.col("abstains")).filter(method=registry.method(UNSTEERED).key).select(*place, unsteered="score")
    joined = choices.join(unsteered, on=place, how="left")
    return joined.with_columns(score=pl.when("abstains").then("unsteered").otherwise("score"))


def method_scores(choices: pl.DataFrame, fits: pl.DataFrame, concepts: pl.DataFrame) -> pl.DataFrame:
    """METHOD_CHOICES, FITS and COMPARED_CONCEPTS -> METHOD_SCORES: the mean of the halves reported on, for each method and concept."""
    norms = fits.select(*FIT, "reason", "residual_change", "residual_norm")
    prompts = pl.col("method").is_in(_ADDS_TEXT)
    change = pl.when(~prompts).then(pl.col("factor").cast(pl.Float64) * pl.col("residual_change"))
    rows = choices.sort(METHOD_CHOICES.keys).join(norms, on=FIT, how="left", maintain_order="left").with_columns(change=change)
    means = rows.group_by(FIT, maintain_order=True).agg(
        pl.col("abstains", "reason").first(),
        *(pl.col(name).mean() for name in (*_MEASURES, "change")),
        (pl.col("change") / pl.col("residual_norm")).mean().alias("relative_change"),
        pl.col("score").count().cast(pl.UInt8).alias("n_halves"),
        pl.col("factor").alias("factors"),
        pl.col("at_smallest").count().cast(pl.UInt8).alias("n_choices"),
        *(pl.col(f"at_{name}").sum().cast(pl.UInt8).alias(f"n_at_{name}") for name in _ENDS.values()),
        pl.col("n", "n_missing").sum(),
    )
    named = means.join(concepts.select("concept_id", "concept"), on="concept_id", how="left")
    return named.select(list(METHOD_SCORES.columns)).sort(METHOD_SCORES.keys)


def scored(rows: Rows, halves: Mapping[str, int], settings: ProtocolSettings, best_factor: BestFactorSettings) -> dict[str, pl.DataFrame]:
    """All of this: METHOD_HALVES, METHOD_CHOICES and METHOD_SCORES by name. `halves` are those of the prompts (`prompt_halves`);
    `best_factor` has what P1's rule goes by, where that chooses."""
    half_means = method_halves(rows, halves, settings.score, best_factor)
    choices = method_choices(half_means, rows.fits, settings.factor_choice)
    return {
        METHOD_HALVES.name: half_means,
        METHOD_CHOICES.name: choices,
        METHOD_SCORES.name: method_scores(choices, rows.fits, rows.concepts),
    }


def score_scale(settings: ProtocolSettings) -> Interval:
    """The scale of a concept's score."""
    return SHARES if settings.score == "product_of_means" else RATINGS


def at_every_layer(rows: pl.DataFrame, layers: Sequence[int]) -> pl.DataFrame:
    """Rows with columns layer and method, where those of methods that read and change nothing at a layer stand for every layer: they are
    fitted, generated and judged once, at the experiment's first."""
    first, *other_layers = sorted(layers)
    once = rows.filter(pl.col("method").is_in([row.key for row in registry.METHODS if not row.has_layer]), pl.col("layer") == first)
    return pl.concat([rows, *(once.with_columns(layer=pl.lit(layer, rows.schema["layer"])) for layer in other_layers)])
