"""Input score, P1 (arXiv 2505.20063): does a feature's decoder direction promote the tokens that activate it?"""

import polars as pl

from saesteer.core.tokens import TextTokens

ALGORITHM_VERSION = 3


def input_scores(examples: pl.DataFrame, lens: pl.DataFrame, tokens: TextTokens, convention: str, min_examples: int) -> pl.DataFrame:
    """The INPUT_SCORE rows of features: S_in = share of the feature's max-activating examples whose maximal token is among its top
    logit-lens tokens, in [0, 1].

    P1, section 3. convention "retokenised": the token's string, "▁" read as a space where the tokenizer writes spaces so, is tokenised
    again and its first id taken (P1's program, whose tokenizers put no space before a text; of those that do, it is left out). Refused
    where the vocabulary does not survive it. An underscore stays one: P1's program puts a space for "_" instead, of which "▁" has no need
    (its tokenizer reads that as a space), so that it looks for " name" where the token is "_name". "ids": the id as recorded (P1's text).
    An example without an id, or at a special token, is left out; with fewer than min_examples the score is null.
    """
    if convention == "retokenised":
        tokens.check_round_trip()
    long = examples.select("layer", "feature", "examples").explode("examples").drop_nulls("examples").unnest("examples")
    long = long.filter(~pl.col("token").is_in(tokens.strings(tokens.special_ids)))
    ids = _retokenised_ids(long["token"], tokens) if convention == "retokenised" else long["token_id"]
    long = long.with_columns(ids.alias("id")).drop_nulls("id")
    hits = long.join(lens.select("layer", "feature", "token_ids"), on=["layer", "feature"], how="left")
    scores = hits.group_by("layer", "feature").agg(input_score=pl.col("id").is_in(pl.col("token_ids")).mean(), n_examples=pl.len())
    rows = (
        examples.select("layer", "feature")
        .join(scores, on=["layer", "feature"], how="left")
        .with_columns(pl.col("n_examples").fill_null(0))
    )
    enough = pl.col("n_examples") >= min_examples
    return rows.select(
        "layer",
        "feature",
        input_score=pl.when(enough).then("input_score"),
        n_examples=pl.col("n_examples").cast(pl.UInt32),
        reason=pl.when(~enough).then(pl.lit(f"fewer than {min_examples} max-activating examples")),
    )


def _retokenised_ids(strings: pl.Series, tokens: TextTokens) -> pl.Series:
    """First id of each token string tokenised again; null where the string gives no token."""
    distinct = strings.unique().sort().to_list()
    first = dict(zip(distinct, tokens.retokenised_ids(distinct), strict=True))
    return pl.Series([first[string] for string in strings.to_list()], dtype=pl.UInt32)
