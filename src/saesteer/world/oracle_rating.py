"""Ratings of generations: concept and fluency, each 0, 1 or 2, and their harmonic mean (AxBench, arXiv 2501.17148, section 3)."""

from collections.abc import Sequence

import polars as pl

from saesteer.analysis.score import harmonic_mean
from saesteer.core.tables import JUDGEMENTS
from saesteer.core.tokens import TextTokens
from saesteer.world.oracle_judge import Oracle, concept_rating, fluency_rating

ALGORITHM_VERSION = 2


def rate(
    generations: pl.DataFrame, perplexity: pl.DataFrame, concepts: pl.DataFrame, oracle: Oracle, topics: Sequence[str], tokens: TextTokens
) -> pl.DataFrame:
    """The JUDGEMENTS rows of generations by the shipped world's oracle.

    `concepts` has layer, feature and concept (null where none is clear).
    """
    on = ["layer", "feature"]
    texts = generations.join(concepts.select(*on, "concept"), on=on, how="left", maintain_order="left")
    return rate_texts(texts, perplexity, JUDGEMENTS.keys, oracle, topics, tokens)


def rate_texts(
    texts: pl.DataFrame, perplexity: pl.DataFrame, keys: Sequence[str], oracle: Oracle, topics: Sequence[str], tokens: TextTokens
) -> pl.DataFrame:
    """Keys and ratings of texts (keys, text, and concept: a topic or null) by the shipped world's oracle, in their order.

    The concept rating looks at the continuation's tokens, the fluency rating at its loss under the second model (`perplexity`: keys and
    mean_nll). What cannot be rated is null: a text without a concept, or without content.
    """
    rows = texts.join(perplexity.select(*keys, "mean_nll"), on=list(keys), how="left", maintain_order="left")
    numbers = {name: number for number, name in enumerate(topics)}
    ids = tokens.retokenise(rows["text"].to_list())
    concept = [
        None if name is None else concept_rating(oracle, found, numbers[name])
        for name, found in zip(rows["concept"].to_list(), ids, strict=True)
    ]
    fluency = [fluency_rating(oracle, nll) for nll in rows["mean_nll"].to_list()]
    rated = rows.with_columns(
        concept_rating=pl.Series(concept, dtype=pl.UInt8),
        instruction_rating=pl.lit(None, pl.UInt8),
        fluency_rating=pl.Series(fluency, dtype=pl.UInt8),
        has_concept=pl.col("concept").is_not_null(),
    )
    return rated.select(
        *keys,
        "concept_rating",
        "instruction_rating",
        "fluency_rating",
        judge_score=harmonic_mean(["concept_rating", "fluency_rating"]),
        reason=_reason(),
    )


def _reason() -> pl.Expr:
    return (
        pl.when(~pl.col("has_concept"))
        .then(pl.lit("the feature has no clear concept"))
        .when(pl.col("concept_rating").is_null())
        .then(pl.lit("no content to rate"))
        .when(pl.col("fluency_rating").is_null())
        .then(pl.lit("no loss to rate"))
    )
