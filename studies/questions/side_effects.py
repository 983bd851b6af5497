"""Can what steering with a feature does besides be foreseen without steering?

Of labelled features, at the factor that the judge chooses on one half of the prompts; side effects are those on the other half, mean of
both ways. A feature whose judge score is nowhere above 0 on a half has no recommended factor there. Two things test each predictor, both
with directions that were fixed before any result: its rank correlation with each side effect, which is to be positive, and a filter that
leaves out the third of a layer's features with the highest value, which is to leave features of smaller side effects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy import sparse, stats
from torch import Tensor
from torch.nn.functional import normalize

from saesteer.analysis.halves import split_halves
from saesteer.core.tables import ACTIVATIONS, FEATURE_TEXT, FEATURES, GENERATIONS, STEERING, of_features
from saesteer.core.uncertainty import difference_interval, interval_columns
from saesteer.engine.hook_points import to_residual
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae
from saesteer.report.scoring import ordinary_losses
from saesteer.run import Run
from saesteer.settings import IntervalSettings, OracleJudge
from saesteer.summaries.counted_ratings import counted_ratings
from saesteer.world.judges import WorldJudge
from studies.questions.choice_rules import chosen_by_judge
from studies.questions.quantities import ROWS_AT_A_TIME, lens_log_probabilities
from studies.questions.quantity_correlations import correlation
from studies.questions.summaries.side_effects import EFFECTS, PREDICTORS
from studies.questions.tables import SIDE_EFFECT_CORRELATIONS, SIDE_EFFECTS

MOST_FEATURES = 256
"""Of a layer, spread evenly over the numbers of those that could be measured."""
N_NEAREST = 10
"""Decoder rows nearest to a feature's, whose cosines are averaged."""
ONE_IN = 3
"""The filter leaves out one feature in so many."""
_FEATURE = ["layer", "feature"]
_HALF = [*_FEATURE, "half"]


def recommended_halves(features: pl.DataFrame, steering: pl.DataFrame) -> pl.DataFrame:
    """FEATURES and STEERING -> layer, feature, concept, half and strength (the recommended factor, chosen on the other half), of labelled
    features."""
    labelled = features.select(*_FEATURE, "concept").drop_nulls()
    halves = chosen_by_judge(steering).filter(pl.col("chosen") > 0).join(labelled, on=_FEATURE)
    place, n = pl.col("feature").rank("dense").cast(pl.Int64) - 1, pl.col("feature").n_unique().cast(pl.Int64)
    most = pl.min_horizontal(n, MOST_FEATURES)
    is_first = place * most // n > (place - 1) * most // n  # of the features that share a place among the most
    return halves.filter(is_first.over("layer")).select(*_FEATURE, "concept", "half", "strength").sort(_HALF)


@torch.no_grad()
def nearest_cosines(decoder: Float[Tensor, "feature width"], features: list[int]) -> pl.DataFrame:
    """decoder_cosine and decoder_cosine_10, a row each of the features: the largest absolute cosine of its decoder row with another row of
    the SAE, and the mean of the N_NEAREST largest."""
    rows = normalize(decoder.float(), dim=1)
    cosines = (rows[features] @ rows.T).abs()
    cosines[range(len(features)), features] = -1.0
    largest = cosines.topk(min(N_NEAREST, len(rows) - 1), dim=1).values.double().cpu()
    return pl.DataFrame({"decoder_cosine": largest[:, 0].numpy(), "decoder_cosine_10": largest.mean(dim=1).numpy()})


def co_activation(activations: pl.DataFrame, n_features: int, features: list[int]) -> list[float | None]:
    """ACTIVATIONS of one layer -> of each of the features the largest Jaccard index with another feature of the tokens at which they are
    active; None for one that is never active."""
    tokens = activations.select("text_id", "token_index", "feature").explode("token_index", "feature").drop_nulls()
    token = tokens.select(pl.struct("text_id", "token_index").rle_id()).to_series().to_numpy()  # a text's tokens come in order
    active = sparse.csr_array((np.ones(len(token)), (token, tokens["feature"].to_numpy())), shape=(int(token.max()) + 1, n_features))
    counts = active.sum(axis=0)
    both = (active[:, features].T @ active).toarray()
    jaccard = both / np.maximum(counts[features][:, None] + counts - both, 1.0)
    jaccard[range(len(features)), features] = -1.0
    return [float(row.max()) if counts[feature] else None for feature, row in zip(features, jaccard, strict=True)]


@torch.no_grad()
def lens_entropy(lm: LanguageModel, residual: Float[Tensor, "feature d_model"]) -> list[float]:
    """Entropy in nats of softmax(head(final_norm(row))), no soft cap, of each row."""
    parts = [lens_log_probabilities(lm, part) for part in residual.split(ROWS_AT_A_TIME)]
    return [float(-(log_p.exp() * log_p).sum()) for part in parts for log_p in part]


def predictors(run: Run, lm: LanguageModel, sae: Sae, rows: pl.DataFrame) -> pl.DataFrame:
    """FEATURES rows of the SAE's layer -> layer, feature and PREDICTORS."""
    layer, numbers = sae.meta.layer, rows["feature"].to_list()
    residual = to_residual(lm, layer, sae.meta.hook_point)(sae.W_dec[numbers])
    together = co_activation(run.rows(ACTIVATIONS, [layer]), len(sae.W_dec), numbers)
    columns = [pl.Series("co_activation", together, pl.Float64), pl.Series("lens_entropy", lens_entropy(lm, residual), pl.Float64)]
    return rows.select(*_FEATURE, "density").hstack(nearest_cosines(sae.W_dec, numbers)).with_columns(columns)


def spread(held_out: pl.DataFrame) -> pl.DataFrame:
    """Judged texts (layer, feature, half, prefix_id, judge_score) -> layer, feature, n (texts that could be rated), judge_score and
    score_sd (standard deviation over the prompts of a half), both the mean of the halves."""
    rated = held_out.drop_nulls("judge_score")
    prompts = rated.group_by(*_HALF, "prefix_id").agg(pl.col("judge_score").mean(), n=pl.len())
    halves = prompts.group_by(_HALF).agg(pl.col("judge_score").mean(), score_sd=pl.col("judge_score").std(), n=pl.col("n").sum())
    return halves.group_by(_FEATURE).agg(pl.col("judge_score", "score_sd").mean(), pl.col("n").sum()).sort(_FEATURE)


def topic_ratings(judge: WorldJudge, topics: list[str], texts: pl.Series) -> pl.DataFrame:
    """text, topic, rating: the concept rating of each distinct text for every topic, null where there is nothing to rate."""
    distinct = texts.drop_nulls().unique().sort()
    ratings = [[judge.concept(ids, number) for number in range(len(topics))] for ids in judge.read(distinct.to_list())]
    columns = {"text": distinct, "topic": [topics] * len(distinct), "rating": ratings}
    return pl.DataFrame(columns, schema_overrides={"rating": pl.List(pl.Float64)}).explode("topic", "rating")


def other_topics(steered: pl.DataFrame, unsteered: pl.DataFrame, rated: pl.DataFrame) -> pl.DataFrame:
    """layer, feature, other_largest and other_mean: how far steering raises the mean rating for other topics than the concept, largest and
    mean over these. Texts have layer, half and text, steered ones also feature and concept; unsteered texts of all features of a layer are
    taken together. rated: `topic_ratings`."""
    place = ["layer", "half", "topic"]
    before = unsteered.join(rated, on="text").group_by(place).agg(before=pl.col("rating").mean())
    after = steered.join(rated.filter(pl.col("rating").is_not_null()), on="text").filter(pl.col("topic") != pl.col("concept"))
    halves = after.group_by(*_FEATURE, "half", "topic").agg(pl.col("rating").mean()).join(before, on=place)
    topics = halves.group_by(*_FEATURE, "topic").agg(rise=(pl.col("rating") - pl.col("before")).mean())
    return topics.group_by(_FEATURE).agg(other_largest=pl.col("rise").max(), other_mean=pl.col("rise").mean()).sort(_FEATURE)


def side_effects(run: Run) -> pl.DataFrame:
    """SIDE_EFFECTS of an experiment's layers."""
    lm, features = run.model(), run.summary(FEATURES)
    halves = recommended_halves(features, run.summary(STEERING))
    layers = [_of_layer(run, lm, features, of_layer) for of_layer in halves.partition_by("layer", maintain_order=True)]
    rows = pl.concat(layers) if layers else pl.DataFrame(schema=SIDE_EFFECTS.schema)
    return rows.select(list(SIDE_EFFECTS.columns)).cast(pl.Schema(SIDE_EFFECTS.schema)).sort(SIDE_EFFECTS.keys)


def _of_layer(run: Run, lm: LanguageModel, features: pl.DataFrame, halves: pl.DataFrame) -> pl.DataFrame:
    layer, half_of = int(halves["layer"][0]), split_halves(run.prompts())
    written, judged = (of_features(rows) for rows in (run.rows(GENERATIONS, [layer]), counted_ratings(run, [layer])))
    half = pl.col("prefix_id").replace_strict(half_of, return_dtype=halves["half"].dtype)
    texts = written.join(judged.select(*FEATURE_TEXT, "judge_score"), on=FEATURE_TEXT, how="left")
    texts = texts.with_columns(half=half, strength=pl.col("factor").cast(pl.Float64))
    held_out = texts.join(halves, on=[*_HALF, "strength"])
    made = halves.group_by(*_FEATURE, "concept").agg(strength=pl.col("strength").log().mean().exp())
    unsteered = texts.filter(strength=0.0).join(made, on=_FEATURE, how="semi")
    known = features.join(made, on=_FEATURE, how="semi").sort(_FEATURE)
    measured = (spread(held_out), _other_topics(run, held_out, unsteered), _loss_rises(run, halves))
    for columns in (predictors(run, lm, run.sae(layer), known), *measured):
        made = made.join(columns, on=_FEATURE, how="left")
    return made


def _other_topics(run: Run, held_out: pl.DataFrame, unsteered: pl.DataFrame) -> pl.DataFrame:
    """`other_topics` by the judge of a shipped world; null by another judge, which would have to be paid for every topic."""
    if not isinstance(run.sweep.judge, OracleJudge):
        empty = {name: pl.lit(None, pl.Float64) for name in ("other_largest", "other_mean")}
        return held_out.select(_FEATURE).unique().with_columns(**empty)
    rated = topic_ratings(run.world_judge(), run.topics(), pl.concat([held_out["text"], unsteered["text"]]))
    return other_topics(held_out, unsteered, rated)


def _loss_rises(run: Run, halves: pl.DataFrame) -> pl.DataFrame:
    """layer, feature, loss_rise: the mean of what the strengths of the halves add to the loss of ordinary texts, nats a token."""
    strengths = [(layer, str(feature), repr(strength)) for layer, feature, strength in halves.select(*_FEATURE, "strength").iter_rows()]
    losses = ordinary_losses(run, sorted(set(strengths)))
    rises = [losses[of].mean if of in losses else None for of in strengths]
    return halves.with_columns(loss_rise=pl.Series(rises, dtype=pl.Float64)).group_by(_FEATURE).agg(pl.col("loss_rise").mean())


def side_effect_correlations(table: pl.DataFrame, settings: IntervalSettings) -> pl.DataFrame:
    """SIDE_EFFECTS -> SIDE_EFFECT_CORRELATIONS."""
    lines: list[dict[str, Any]] = []
    for rows in table.sort(_FEATURE).partition_by("layer", maintain_order=True):
        for predictor in PREDICTORS:
            for effect in EFFECTS:
                both = rows.drop_nulls([predictor, effect])
                line = {"layer": rows["layer"][0], "predictor": predictor, "side_effect": effect, "mean": both[effect].mean()}
                line |= correlation(both, predictor, effect, settings) | _filtered(both, predictor, effect, settings)
                p = stats.spearmanr(both[predictor], both[effect]).pvalue if line["rho"] is not None else None
                lines.append(line | {"p": p})
    compared = [line for line in lines if line["p"] is not None]
    for line, p in zip(compared, holm([line["p"] for line in compared]), strict=True):
        line["p"] = p
    return pl.DataFrame(lines, schema=SIDE_EFFECT_CORRELATIONS.schema).sort(SIDE_EFFECT_CORRELATIONS.keys)


def _filtered(rows: pl.DataFrame, predictor: str, effect: str, settings: IntervalSettings) -> dict[str, Any]:
    """n_left_out, and difference with its interval: the mean over the features that remain less that over those left out. Ties: of equal
    ones the smallest number is left out first."""
    values = rows.sort(predictor, "feature", descending=[True, False])[effect].to_numpy()
    left_out, remaining = np.split(values, [len(values) // ONE_IN])
    difference = float(remaining.mean() - left_out.mean()) if len(left_out) else None
    interval = difference_interval(remaining, left_out, settings.confidence)
    return {"n_left_out": len(left_out), **interval_columns("difference", difference, interval)}


def holm(p: list[float]) -> list[float]:
    """p values corrected for their number by Holm's step-down procedure (Scand. J. Stat. 6, 1979, p. 65)."""
    order, n = np.argsort(p, kind="stable"), len(p)
    stepped = np.maximum.accumulate((n - np.arange(n)) * np.asarray(p)[order]).clip(max=1.0)
    corrected = np.empty(n)
    corrected[order] = stepped
    return [float(value) for value in corrected]
