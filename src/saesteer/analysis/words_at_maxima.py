"""The words in which a feature's max-activating examples have their maxima."""

import polars as pl

from saesteer.analysis.concepts import explained_concepts

ALGORITHM_VERSION = 1
_LETTER = r"[\p{L}\p{M}\p{N}'’-]"
_MOST_TOKENS = 8
"""Tokens on each side of an example's maximum among which those of its word are."""


def words_at_maxima(examples: pl.DataFrame) -> pl.DataFrame:
    """MAX_ACTIVATING_EXAMPLES -> layer, feature, word, len: the words in which a feature's max-activating examples are largest, put
    together from their tokens, and how many examples each is of; most first, ties by the alphabet."""
    every = examples.select("layer", "feature", "examples").explode("examples").drop_nulls("examples").unnest("examples")
    at, context = pl.col("token_index").cast(pl.Int64), pl.col("context").list
    start = (at - _MOST_TOKENS).clip(lower_bound=0)
    before, token, after = (
        text.str.replace_all("▁", " ")
        for text in (context.slice(start, at - start).list.join(""), pl.col("token"), context.slice(at + 1, _MOST_TOKENS).list.join(""))
    )
    head = pl.when(token.str.contains(rf"^{_LETTER}")).then(before.str.extract(rf"({_LETTER}*)$")).otherwise(pl.lit(""))
    tail = pl.when(token.str.contains(rf"{_LETTER}$")).then(after.str.extract(rf"^({_LETTER}*)")).otherwise(pl.lit(""))
    words = every.select("layer", "feature", word=pl.concat_str(head, token.str.strip_chars(), tail).str.to_lowercase())
    counted = words.group_by("layer", "feature", "word").len()
    return counted.sort("layer", "feature", "len", "word", descending=[False, False, True, False])


def fired_on(words: pl.DataFrame) -> pl.DataFrame:
    """layer, feature, fires_on: the first of the words of each feature (`words_at_maxima`)."""
    return words.group_by("layer", "feature", maintain_order=True).agg(fires_on=pl.col("word").first())


def example_concepts(examples: pl.DataFrame) -> pl.DataFrame:
    """The CONCEPTS rows of features that stand for their max-activating examples: the word in which most of these have their maximum."""
    words = fired_on(words_at_maxima(examples)).filter(pl.col("fires_on").str.contains(r"\p{L}"))
    named = examples.join(words, on=["layer", "feature"], how="left", maintain_order="left")
    explained = explained_concepts(named.with_columns(explanations=pl.concat_list("fires_on")))
    without = pl.when(pl.col("concept").is_null()).then(pl.lit("its max-activating examples have their maxima in no word"))
    return explained.with_columns(reason=without)
