"""How much of a feature's best factor the grid decides: how many choices lie at an end of it, and what choices from fewer factors cost."""

from typing import Any

import polars as pl

from saesteer.analysis.best_factor import RULES, best_factors
from saesteer.core.uncertainty import RATINGS, mean_columns, of_differences
from saesteer.settings import BestFactorSettings, SelectionSettings
from studies.questions.choice_rules import BY_JUDGE, chosen_by_judge
from studies.questions.tables import GRID_ENDS

ALL = "all"
_FEATURE = ["layer", "feature"]


def grids(factors: list[str]) -> dict[str, list[str]]:
    """Name -> positive factors of a sweep, ascending, that are left to choose from; only grids of two factors or more."""
    smaller = {ALL: factors, "without the smallest": factors[1:], "without the largest": factors[:-1]}
    smaller |= {"without the two largest": factors[:-2], "every other": factors[::2]}
    return {name: factors_left for name, factors_left in smaller.items() if len(factors_left) > 1}


def grid_ends(steering: pl.DataFrame, choice: BestFactorSettings, settings: SelectionSettings) -> pl.DataFrame:
    """STEERING -> GRID_ENDS."""
    factors = sorted(steering.filter(pl.col("factor").cast(pl.Float64) > 0)["factor"].unique().to_list(), key=float)
    unsteered = pl.col("factor").cast(pl.Float64) == 0
    choices = {
        grid: pl.concat(_choices(steering.filter(pl.col("factor").is_in(factors_left) | unsteered), choice))
        for grid, factors_left in grids(factors).items()
    }
    lines = []
    for grid, of_grid in choices.items():
        beside = of_grid.join(choices[ALL], on=["factor_rule", *_FEATURE, "half"], suffix="_all")
        ends = [float(end) for end in (grids(factors)[grid][0], grids(factors)[grid][-1])]
        for group in beside.sort("factor_rule", *_FEATURE, "half").partition_by("factor_rule", "layer", maintain_order=True):
            rule, layer = group.select("factor_rule", "layer").row(0)
            lines.append({"layer": layer, "factor_rule": rule, "grid": grid} | _line(group, (ends[0], ends[1]), settings))
    return pl.DataFrame(lines, schema=GRID_ENDS.schema).sort(GRID_ENDS.keys)


def _choices(steering: pl.DataFrame, choice: BestFactorSettings) -> list[pl.DataFrame]:
    """factor_rule, layer, feature, half, factor (null where steering failed) and judge_score of judged features: held out, by each rule."""
    judged = chosen_by_judge(steering).select(
        pl.lit(BY_JUDGE).alias("factor_rule"), *_FEATURE, "half", factor="strength", score="judge_score"
    )
    held_out = choice.model_copy(update={"factor_choice": "held_out"})
    by_rules = best_factors(steering.join(judged, on=_FEATURE, how="semi"), held_out).drop_nulls("judge_score")
    half, factor = pl.col("reported_on").cast(pl.Int64), pl.col("factor").cast(pl.Float64)
    rows = by_rules.filter(pl.col("rule").is_in(RULES)).select(
        factor_rule="rule", layer="layer", feature="feature", half=half, factor=factor, score="judge_score"
    )
    return [judged, rows.select(judged.columns)]


def _line(choices: pl.DataFrame, ends: tuple[float, float], settings: SelectionSettings) -> dict[str, Any]:
    chosen = choices.drop_nulls("factor")
    shares = chosen.select(
        at_smallest=(pl.col("factor") == ends[0]).mean(),
        at_largest=(pl.col("factor") == ends[1]).mean(),
        moved=pl.col("factor").ne_missing(pl.col("factor_all")).mean(),
    )
    by_feature = choices.group_by(_FEATURE).agg(pl.col("score", "score_all").mean()).sort(_FEATURE)
    change = (by_feature["score"] - by_feature["score_all"]).to_numpy()
    score = {"n": chosen.height, **shares.row(0, named=True), "score": by_feature["score"].mean()}
    return score | mean_columns("change", change, settings, scale=of_differences(RATINGS))
