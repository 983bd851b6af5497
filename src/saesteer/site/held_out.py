"""What a page says first of a feature: its recommended factor, its held-out score and its gain over unsteered texts of the same prompts."""

from typing import Any

import polars as pl

from saesteer.analysis.best_factor import recommended_factors
from saesteer.analysis.halves import split_halves
from saesteer.analysis.tables import OUTCOMES, STEERING
from saesteer.core.texts import of_features
from saesteer.core.uncertainty import SCALES, difference_interval, interval_columns, mean_interval
from saesteer.run import Run
from saesteer.settings import Sweep
from saesteer.steps.gen_success import GEN_SUCCESS
from saesteer.summaries.counted_ratings import counted_ratings

MEASURES = ("judge_score", "gen_success_20")
"""A feature's score is the first of them that it has."""
_FEATURE = ["layer", "feature"]


def held_out_scores(run: Run) -> pl.DataFrame | None:
    """layer, feature, the recommended `factor`, what it was `chosen_by`, measure, score and gain, each with `_low` and `_high`, and n, the
    prompts behind the intervals; of a feature without a score, nulls. None without a sweep.

    Score and gain are means of OUTCOMES by the experiment's rule, the gain's minus those of STEERING at factor 0. Intervals are over
    prompts, each at the factor that the other half of them chose.
    """
    outcomes, steering = (run.summary_if_any(table) for table in (OUTCOMES, STEERING))
    if not isinstance(run.experiment, Sweep) or outcomes is None or steering is None:
        return None
    outcomes, confidence = outcomes.filter(rule=run.experiment.best_factor.rule), run.experiment.intervals.confidence
    unsteered_means = steering.filter(factor="0").group_by(_FEATURE).agg(pl.col(MEASURES).mean())
    rows = outcomes.join(unsteered_means, on=_FEATURE, how="left", suffix="_unsteered", maintain_order="left")
    by_prompt = _by_prompt(run, outcomes)
    by_feature = by_prompt.partition_by(_FEATURE, as_dict=True)
    scores = []
    for row in rows.iter_rows(named=True):
        if measure := next((name for name in MEASURES if row[name] is not None), None):
            texts = by_feature.get((row["layer"], row["feature"]), by_prompt.clear())
            steered, unsteered = (texts[name].drop_nulls().to_numpy() for name in (measure, f"{measure}_unsteered"))
            score, before, scale = row[measure], row[f"{measure}_unsteered"], SCALES[measure]
            gain = None if before is None else score - before
            intervals = interval_columns("score", score, mean_interval(steered, confidence, scale))
            intervals |= interval_columns("gain", gain, difference_interval(steered, unsteered, confidence, scale))
            scores.append({name: row[name] for name in _FEATURE} | {"measure": measure} | intervals | {"n": len(steered)})
    types: dict[str, Any] = {f"{name}{end}": pl.Float64 for name in ("score", "gain") for end in ("", "_low", "_high")}
    keys = {name: outcomes.schema[name] for name in _FEATURE}
    known = pl.DataFrame(scores, schema=keys | {"measure": pl.String} | types | {"n": pl.Int64})
    return recommended_factors(steering, run.experiment.best_factor).join(known, on=_FEATURE, how="left", maintain_order="left")


def _by_prompt(run: Run, outcomes: pl.DataFrame) -> pl.DataFrame:
    """layer, feature, prefix_id, and each of MEASURES at the factor chosen for the prompt's half, 0 where steering failed, and of its
    unsteered texts (`_unsteered`). outcomes: of one rule."""
    prompt = [*_FEATURE, "prefix_id"]
    success, ratings = run.rows_if_any(GEN_SUCCESS, None, ["gen_success_20"]), counted_ratings(run)
    texts = of_features(success.join(ratings, on=GEN_SUCCESS.keys, how="left"))
    means = texts.group_by(*prompt, "factor", maintain_order=True).agg(pl.col(MEASURES).cast(pl.Float64).mean())
    halves = split_halves(run.prompts_if_any(), run.sweep.best_factor.factor_choice)
    half = pl.col("prefix_id").replace_strict(halves, default=None, return_dtype=pl.Int64).alias("half")
    prompts = means.select(*prompt, half).unique(maintain_order=True).drop_nulls("half")
    chosen = prompts.join(outcomes.select(*_FEATURE, "factors"), on=_FEATURE, maintain_order="left")
    chosen = chosen.with_columns(factor=pl.col("factors").list.get("half"))
    steered = chosen.join(means, on=[*prompt, "factor"], how="left", maintain_order="left")
    counted = steered.with_columns(pl.when(pl.col("factor").is_not_null()).then(name).otherwise(0.0).alias(name) for name in MEASURES)
    return counted.join(means.filter(factor="0").drop("factor"), on=prompt, how="left", suffix="_unsteered", maintain_order="left")
