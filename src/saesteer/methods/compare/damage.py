"""What steering costs, and what it buys: each method's damage to ordinary text beside its score, at the factors that were chosen; and
methods at equal cost, each at its strongest under a limit on that damage.

The cost of a fit at a factor is the divergence of DAMAGE: the Kullback-Leibler divergence of the next-token distribution on ordinary text
from the unsteered one, mean over tokens, in nats. Under a limit the protocol is that of `compare.protocol`, but a half of the prompts
chooses among the factors whose divergence is at most the limit. Where there is none, the method abstains: the concept counts with the
unsteered text's score, at a cost of 0. Ordinary texts take no part in any score, so both halves choose among the same factors.
"""

from typing import Any

import numpy as np
import polars as pl

from saesteer.core.uncertainty import RATINGS, rank_correlation
from saesteer.methods.compare.means import mean_over_concepts
from saesteer.methods.compare.protocol import FIT, UNSTEERED, ProtocolError, method_choices, score_scale
from saesteer.methods.compare.tables import METHOD_DAMAGE, METHOD_EQUAL_COST, METHOD_EQUAL_COST_SCORES
from saesteer.settings.methods import MethodSettings
from saesteer.settings.registry import method

LIMITS = (0.05, 0.1, 0.2, 0.5)
"""Nats of divergence."""
_METHOD, _POINT = ["layer", "method"], [*FIT, "factor"]
_LOST = ("loss_rise", "divergence")
_MEASURES = (*_LOST, "other_rating")
_TAKEN_OVER = ("title", "family", "score", "score_low", "score_high")


def method_damage(
    damage: pl.DataFrame, other_ratings: pl.DataFrame, choices: pl.DataFrame, methods: pl.DataFrame, settings: MethodSettings
) -> pl.DataFrame:
    """DAMAGE, METHOD_CHOICES and METHODS_TABLE -> METHOD_DAMAGE. A concept's damage is the mean over the halves reported on, each at the
    factor chosen for it; where the method abstains nothing is steered and nothing lost, as its score is the unsteered text's. `others` has
    the other_rating of texts, with the keys FIT and factor; it is empty where other concepts are not rated."""
    columns = ["loss_rise", "divergence", "unsteered_loss"]
    measured = damage.with_columns(loss_rise=pl.col("loss") - pl.col("unsteered_loss")).select(*_POINT, *columns)
    rows = choices.select(*_POINT, "abstains").join(measured, on=_POINT, how="left")
    rows = rows.with_columns(pl.when("abstains").then(0.0).otherwise(name).alias(name) for name in _LOST)
    concepts = rows.group_by(FIT).agg(pl.col(columns).mean()).join(_other_ratings(other_ratings, choices), on=FIT, how="left").sort(FIT)
    lines = []
    for group in concepts.partition_by(_METHOD, maintain_order=True):
        layer, key = group.select(_METHOD).row(0)
        line = {"layer": layer, "method": key, "n": group["loss_rise"].count(), "confidence": settings.confidence}
        for name in _MEASURES:
            line |= mean_over_concepts(name, group[name], settings, scale=RATINGS if name == "other_rating" else None)
        lines.append(line)
    schema = {name: dtype for name, dtype in METHOD_DAMAGE.schema.items() if name not in (*_TAKEN_OVER, "unsteered_loss")}
    table = pl.DataFrame(lines, schema=schema)
    unsteered = damage.group_by("layer").agg(pl.col("unsteered_loss").first())
    table = table.join(methods.select(*_METHOD, *_TAKEN_OVER), on=_METHOD, how="left")
    return table.join(unsteered, on="layer", how="left").select(list(METHOD_DAMAGE.columns)).sort(METHOD_DAMAGE.keys)


def _other_ratings(other_ratings: pl.DataFrame, choices: pl.DataFrame) -> pl.DataFrame:
    """FIT keys and other_rating: mean over a fit's texts at each chosen factor, then over the choices; where the method abstains the
    unsteered texts'."""
    of_factors = other_ratings.group_by(_POINT).agg(pl.col("other_rating").mean())
    unsteered = of_factors.filter(method=method(UNSTEERED).key).select("layer", "concept_id", unsteered="other_rating")
    rows = choices.select(*_POINT, "abstains").join(of_factors, on=_POINT, how="left")
    rows = rows.join(unsteered, on=["layer", "concept_id"], how="left")
    return rows.group_by(FIT).agg(pl.when("abstains").then("unsteered").otherwise("other_rating").mean().alias("other_rating"))


def equal_cost_scores(damage: pl.DataFrame, halves: pl.DataFrame, choices: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """DAMAGE at every factor, METHOD_HALVES and METHOD_CHOICES -> METHOD_EQUAL_COST_SCORES."""
    unmeasured = halves.join(damage, on=_POINT, how="anti").select(_POINT).sort(_POINT)
    if unmeasured.height:
        raise ProtocolError(f"table damage has no row of {unmeasured.row(0, named=True)}: compute its missing rows first")
    fits = choices.select(FIT).unique()
    of_limits = [
        _by_concept(choices_within(limit, damage, halves, fits, settings.factor_choice), damage).with_columns(limit=pl.lit(limit))
        for limit in LIMITS
    ]
    return pl.concat(of_limits).select(list(METHOD_EQUAL_COST_SCORES.columns)).sort(METHOD_EQUAL_COST_SCORES.keys)


def equal_cost(scores: pl.DataFrame, methods: pl.DataFrame, settings: MethodSettings) -> pl.DataFrame:
    """METHOD_EQUAL_COST_SCORES and METHODS_TABLE -> METHOD_EQUAL_COST."""
    groups = scores.partition_by(*_METHOD, "limit", maintain_order=True)
    lines = [group.select(*_METHOD, "limit").row(0, named=True) | _means(group, settings) for group in groups]
    table = pl.DataFrame(lines, schema={name: METHOD_EQUAL_COST.schema[name] for name in lines[0]})
    ends = {f"unlimited_{name}": name for name in ("score", "score_low", "score_high")}
    table = table.join(methods.select(*_METHOD, "title", "family", "confidence", **ends), on=_METHOD, how="left")
    table = table.join(order_correlations(table, settings.confidence), on=["layer", "limit"], how="left")
    return table.select(list(METHOD_EQUAL_COST.columns)).sort(METHOD_EQUAL_COST.keys)


def choices_within(limit: float, damage: pl.DataFrame, halves: pl.DataFrame, fits: pl.DataFrame, factor_choice: str) -> pl.DataFrame:
    """METHOD_CHOICES of fits (their keys FIT) among the factors whose divergence is at most the limit; a fit without one abstains."""
    within = damage.filter(pl.col("divergence") <= limit).select(_POINT)  # a null is not within it
    steered = within.select(FIT).unique().with_columns(kind=pl.lit("steered"))
    return method_choices(halves.join(within, on=_POINT, how="semi"), fits.join(steered, on=FIT, how="left"), factor_choice)


def _by_concept(choices: pl.DataFrame, damage: pl.DataFrame) -> pl.DataFrame:
    """Each fit's score and divergence, means of the halves reported on, and whether it is unsteered."""
    rows = choices.join(damage.select(*_POINT, "divergence"), on=_POINT, how="left")
    cost = pl.when("abstains").then(0.0).otherwise("divergence").mean().alias("divergence")
    return rows.group_by(FIT).agg(pl.col("score").mean(), cost, pl.col("abstains").first()).sort(FIT)


def _means(group: pl.DataFrame, settings: MethodSettings) -> dict[str, Any]:
    """Means of one method and limit over concepts."""
    sizes = {"n_concepts": group.height, "n": group["score"].count(), "share_unsteered": int(group["abstains"].sum()) / group.height}
    score = mean_over_concepts("score", group["score"], settings, scale=score_scale(settings))
    return sizes | score | mean_over_concepts("divergence", group["divergence"], settings)


def order_correlations(table: pl.DataFrame, confidence: float) -> pl.DataFrame:
    """From rows of METHOD_EQUAL_COST: layer, limit and Spearman's rho, over methods, of the scores under the limit and without one."""
    names = ("rank_correlation", "rank_correlation_low", "rank_correlation_high")
    rows = []
    for group in table.drop_nulls(["score", "unlimited_score"]).partition_by("layer", "limit"):
        one_layer = np.zeros(group.height, dtype=np.int64)
        _, *rho = rank_correlation(group["score"].to_numpy(), group["unlimited_score"].to_numpy(), one_layer, confidence)
        rows.append((*group.select("layer", "limit").row(0), *rho))
    schema = {name: METHOD_EQUAL_COST.schema[name] for name in ("layer", "limit", *names)}
    return pl.DataFrame(rows, schema=schema, orient="row")
