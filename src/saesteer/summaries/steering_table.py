"""Means over generations: one row a feature, factor and half of the prefixes."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import CONCEPTS, FEATURE_TEXT, GEN_SUCCESS, GENERATIONS, JUDGEMENTS, LOGIT_LENS, PERPLEXITY, STEERING, of_features
from saesteer.run import Run
from saesteer.settings import NoJudge, OracleJudge
from saesteer.summaries.counted_ratings import counted_ratings
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.halves import split_halves
    from saesteer.analysis.summaries import steering_table

    judged = not isinstance(run.sweep.judge, NoJudge)
    ratings = counted_ratings(run, layers) if judged else pl.DataFrame(schema=JUDGEMENTS.schema)
    steps = (run.rows(GEN_SUCCESS, layers), run.rows(PERPLEXITY, layers), ratings)
    success, losses, rated = (of_features(rows).drop("reason") for rows in steps)
    return {STEERING.name: steering_table(success, losses, _with_outside(run, layers, rated), split_halves(run.prompts()))}


def _with_outside(run: Run, layers: Sequence[int], rated: pl.DataFrame) -> pl.DataFrame:
    """Ratings with `concept_outside` (world.rating.ratings_outside) by a shipped world's judge; null by any other, which would have to be
    paid for it."""
    if not isinstance(run.sweep.judge, OracleJudge):
        return rated.with_columns(concept_outside=pl.lit(None, pl.Float64))
    from saesteer.world.rating import ratings_outside

    concepts, lens = run.rows(CONCEPTS, layers, ["concept"]), run.rows(LOGIT_LENS, layers, ["tokens"])
    known = concepts.join(lens, on=CONCEPTS.keys, how="left")
    texts = of_features(run.rows(GENERATIONS, layers, ["text"])).join(known, on=CONCEPTS.keys, how="left", maintain_order="left")
    outside = texts.select(*FEATURE_TEXT, ratings_outside(texts, run.world_judge(), run.topics()))
    return rated.join(outside, on=FEATURE_TEXT, how="left", maintain_order="left")


SUMMARY = Summary((STEERING,), sweeps, compute)
