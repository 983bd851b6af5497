"""The words by which a search finds a feature from its max-activating examples: few of each, those that set its examples apart."""

import polars as pl

from saesteer.run import Run
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

AROUND = 8
"""Tokens on each side of an example's maximum in which words count."""
N_WORDS = (8, 60)
"""Words of a feature: the least number and the most at which the rest is cut off."""
LEAST_SHARE = 0.05
"""A word counts that is in at least this share of a feature's examples."""
_ALL_WORDS = 3_400_000  # of all features together: 8 for each feature of 26 layers of 16,384
_WORD = r"\p{L}{3,}"
_SPECIAL = r"<[|/]?\w+\|?>|\[[A-Z]{3,}\]"  # such as <bos>


def words_each(n_features: int) -> int:
    """How many words of a feature are searched in a table of so many."""
    least, most = N_WORDS
    return min(most, max(least, _ALL_WORDS // max(n_features, 1)))


def example_words(run: Run, layer: int, n: int) -> pl.DataFrame:
    """feature, words: of each feature of a layer with examples up to n words, lower case, joined by spaces."""
    if not run.has_rows(MAX_ACTIVATING_EXAMPLES, layer):
        return pl.DataFrame(schema={"feature": pl.UInt32, "words": pl.String})
    return ranked_words(word_counts(run.rows(MAX_ACTIVATING_EXAMPLES, [layer], ["examples"])), n)


def ranked_words(counts: pl.DataFrame, n: int) -> pl.DataFrame:
    """feature, words, from `word_counts`: first the words that are in many of the feature's examples and in those of few other
    features; ties by alphabet."""
    counts = counts.filter(pl.col("n") >= LEAST_SHARE * pl.col("of"))
    rarity = (pl.col("feature").n_unique() / pl.len().over("word")).log()
    ranked = counts.with_columns(weight=(pl.col("n") * rarity).round(9)).sort("feature", -pl.col("weight"), "word")
    return ranked.group_by("feature", maintain_order=True).agg(words=pl.col("word").head(n).str.join(" "))


def word_counts(rows: pl.DataFrame) -> pl.DataFrame:
    """feature, word, n, of: in how many of how many examples of a feature a word is near the maximum."""
    every = rows.select("feature", "examples", of=pl.col("examples").list.len()).explode("examples", empty_as_null=False).unnest("examples")
    at = pl.col("token_index").cast(pl.Int64)
    start = (at - AROUND).clip(lower_bound=0)
    near = pl.col("context").list.slice(start, at - start + 1 + AROUND).list.join("").str.replace_all("▁", " ")
    words = near.str.replace_all(_SPECIAL, " ").str.to_lowercase().str.extract_all(_WORD)
    in_examples = every.select("feature", "of", "rank", word=words).explode("word").drop_nulls("word").unique()
    return in_examples.group_by("feature", "word").agg(n=pl.len().cast(pl.Int64), of=pl.col("of").first())
