"""How many max-activating examples the input score needs."""

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from saesteer.analysis.input_score import input_scores
from saesteer.core.tables import FEATURES, LOGIT_LENS, MAX_ACTIVATING_EXAMPLES
from saesteer.core.tokens import TextTokens
from saesteer.run import Run
from saesteer.settings import SelectionSettings
from saesteer.summaries.summary import Summary
from studies.questions.choice_rules import picked
from studies.questions.experiments import steers_every_feature
from studies.questions.quantity_correlations import correlation
from studies.questions.tables import DATA_SIZES

N_EXAMPLES = (5, 10, 20, 50, 100)
_FEATURE = ["layer", "feature"]


def by_examples(examples: pl.DataFrame, lens: pl.DataFrame, tokens: TextTokens, convention: str) -> pl.DataFrame:
    """n, layer, feature, value: input scores from the n max-activating examples of largest maximum, of features that have the largest
    number of max-activating examples."""
    most = examples.filter(pl.col("n_examples") >= N_EXAMPLES[-1])
    frames = []
    for n in N_EXAMPLES:
        fewer = most.with_columns(pl.col("examples").list.head(n))
        scores = input_scores(fewer, lens, tokens, convention, n).select(*_FEATURE, value="input_score")
        frames.append(scores.drop_nulls("value").select(pl.lit(n, pl.UInt32).alias("n"), *_FEATURE, "value"))
    return pl.concat(frames)


def data_sizes(values: pl.DataFrame, features: pl.DataFrame, settings: SelectionSettings) -> pl.DataFrame:
    """What `by_examples` gives, and FEATURES -> DATA_SIZES."""
    rows = values.join(features.select(*_FEATURE, "concept"), on=_FEATURE, how="left").sort("layer", "n", "feature")
    lines = [line for group in rows.partition_by("layer", maintain_order=True) for line in _lines(group, settings)]
    return pl.DataFrame(lines, schema=DATA_SIZES.schema).sort(DATA_SIZES.keys)


def _lines(rows: pl.DataFrame, settings: SelectionSettings) -> Iterator[dict[str, Any]]:
    largest = rows.filter(pl.col("n") == rows["n"].max()).select(*_FEATURE, most="value")
    beside = rows.join(largest, on=_FEATURE, how="inner", maintain_order="left")
    for group in beside.partition_by("n", maintain_order=True):
        layer, n = group.select("layer", "n").row(0)
        rho, picks = correlation(group, "value", "most", settings), picked(group, ["value", "most"], "feature")
        same = (picks["value"] == picks["most"]).mean()
        yield {"layer": layer, "n": n, "n_features": rho.pop("n"), **rho, "n_concepts": picks.height, "same_pick": same}


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    examples, lens, convention = run.rows(MAX_ACTIVATING_EXAMPLES), run.rows(LOGIT_LENS), run.experiment.input_score.tokens
    values = by_examples(examples, lens, run.tokens(), convention)
    return {DATA_SIZES.name: data_sizes(values, run.summary(FEATURES), run.sweep.selection)}


SUMMARY = Summary((DATA_SIZES,), steers_every_feature, compute)
