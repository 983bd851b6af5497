"""Ratings of steered texts: those of the sweep's generations (world.oracle_rating, judge.rate_llm), about the concept asked for.

Where a method abstains there is no text, and no rating: null with a reason, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from saesteer.core.tables.methods import NO_FIT, STEERED, STEERED_JUDGEMENTS
from saesteer.core.tokens import TextTokens
from saesteer.judge.answers import Asker
from saesteer.judge.rate_llm import judge_texts
from saesteer.world.oracle_judge import Oracle
from saesteer.world.oracle_rating import rate_texts

ALGORITHM_VERSION = 1
"""Raised with judge.rate's and judge.rate_llm's, too."""


def rate_steered(
    steered: pl.DataFrame, perplexity: pl.DataFrame, asked: pl.DataFrame, oracle: Oracle, topics: Sequence[str], tokens: TextTokens
) -> pl.DataFrame:
    """The STEERED_JUDGEMENTS rows of STEERED rows by the shipped world's oracle, in their order.

    `perplexity` has STEERED_PERPLEXITY's keys and mean_nll; `asked` has concept_id and concept, which is one of the `topics`.
    """
    strange = sorted(set(asked["concept"]) - set(topics))
    if strange:
        raise ValueError(f"the oracle knows no topic {strange[0]!r}: ask for topics of the shipped world, or take another judge")
    rows = _named(steered, asked)
    rated = rate_texts(_written(rows), perplexity, STEERED.keys, oracle, topics, tokens)
    both = pl.concat([rated.select(list(STEERED_JUDGEMENTS.columns)), _abstained(rows)])
    return steered.select(STEERED.keys).join(both, on=STEERED.keys, how="left", maintain_order="left")


def judge_steered(
    steered: pl.DataFrame,
    asked: pl.DataFrame,
    instructions: Mapping[str, str] | None,
    asker: Asker,
    answers_folder: Path,
    part_seconds: float,
) -> Iterator[pl.DataFrame]:
    """The STEERED_JUDGEMENTS rows of STEERED rows by a language model, some at a time, one layer in each frame; those without a text first.

    `asked` has concept_id and concept; the rest is as in judge.rate_llm.judge_texts.
    """
    rows = _named(steered, asked)
    yield from (layer for _, layer in _abstained(rows).group_by("layer", maintain_order=True))
    yield from judge_texts(_written(rows), STEERED.keys, instructions, asker, answers_folder, part_seconds)


def _named(steered: pl.DataFrame, asked: pl.DataFrame) -> pl.DataFrame:
    """Keys, text and the concept's text."""
    named = steered.select(*STEERED.keys, "text").join(
        asked.select("concept_id", "concept"), on="concept_id", how="left", maintain_order="left"
    )
    lacking = named.filter(pl.col("concept").is_null())
    if len(lacking):
        raise ValueError(f"there are texts for concept_id {lacking['concept_id'][0]}, which is not among the concepts asked for")
    return named


def _written(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("text").is_not_null())


def _abstained(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows without a text, rated null."""
    without = rows.filter(pl.col("text").is_null()).select(STEERED.keys).with_columns(reason=pl.lit(NO_FIT))
    rest = {name: column.dtype for name, column in STEERED_JUDGEMENTS.columns.items() if name not in without.columns}
    return without.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in rest.items()).select(list(STEERED_JUDGEMENTS.columns))
