"""Means over generations: one row a feature, factor and half of the prefixes."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import GEN_SUCCESS, JUDGEMENTS, PERPLEXITY, STEERING, of_features
from saesteer.run import Run
from saesteer.settings import NoJudge
from saesteer.steps.judge import scored_texts
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.halves import split_halves
    from saesteer.analysis.summaries import steering_table

    judged = not isinstance(run.sweep.judge, NoJudge)
    ratings = scored_texts(run, layers) if judged else pl.DataFrame(schema=JUDGEMENTS.schema)
    steps = (run.rows(GEN_SUCCESS, layers), run.rows(PERPLEXITY, layers), ratings)
    success, losses, rated = (of_features(rows).drop("reason") for rows in steps)
    return {STEERING.name: steering_table(success, losses, rated, split_halves(run.prompts()))}


SUMMARY = Summary((STEERING,), sweeps, compute)
