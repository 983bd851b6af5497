"""GenSuccess@k, P1 (arXiv 2505.20063), section 4: how many generated tokens are among the feature's first k top logit-lens tokens."""

from typing import Any

import polars as pl

from saesteer.core.texts import SINGLE_FEATURE, TEXT_KEYS
from saesteer.core.tokens import TextTokens

ALGORITHM_VERSION = 3
KS = (1, 5, 20)
NOT_ONE_FEATURE = "not steered with one feature"


def with_feature(generations: pl.DataFrame, fits: pl.DataFrame) -> pl.DataFrame:
    """GENERATIONS rows with the one feature that steers each, null where it is none or several; `fits` are FITS rows (none: P1's sweep)."""
    alone = fits.filter(pl.col("features").list.len() == 1)
    of_fit = alone.select("layer", "method", target="concept_id", fitted=pl.col("features").list.first())
    single = pl.when(pl.col("method") == SINGLE_FEATURE).then("target").cast(pl.UInt32)
    joined = generations.join(of_fit, on=["layer", "method", "target"], how="left", maintain_order="left")
    return joined.with_columns(feature=pl.coalesce(single, "fitted")).drop("fitted")


def gen_success(generations: pl.DataFrame, lens: pl.DataFrame, tokens: TextTokens, convention: str) -> pl.DataFrame:
    """The GEN_SUCCESS rows of GENERATIONS rows with a column `feature`: counts of continuation tokens among its top 1, 5 and 20 lens
    tokens; null where there is no feature or no text.

    convention "retokenised": the continuation's text is tokenised again (P1's program cuts the prefix off and tokenises the rest; of a
    model that answers it tokenises the response, which is what such a model's text is), with no space of the tokenizer's own before it;
    "ids": the ids as generated.
    """
    if convention == "retokenised":
        tokens.check_round_trip()
    texts = generations["text"].fill_null("").to_list()
    ids: Any = tokens.retokenise(texts) if convention == "retokenised" else generations["token_ids"]
    rows = generations.select(
        *TEXT_KEYS,
        "feature",
        "text",
        pl.col("reason").alias("no_text"),
        row=pl.int_range(pl.len()),
        id=pl.Series(ids, dtype=pl.List(pl.UInt32)),
    )
    ranks = lens.select("layer", "feature", id="token_ids").explode("id").with_columns(rank=pl.int_range(pl.len()).over("layer", "feature"))
    hits = rows.select("row", "layer", "feature", "id").explode("id").join(ranks, on=["layer", "feature", "id"], how="inner")
    counts = hits.group_by("row").agg((pl.col("rank") < k).sum().cast(pl.UInt16).alias(f"gen_success_{k}") for k in KS)
    reason = pl.when(pl.col("text").is_null()).then("no_text").when(pl.col("feature").is_null()).then(pl.lit(NOT_ONE_FEATURE))
    counted = rows.join(counts, on="row", how="left", maintain_order="left").with_columns(reason=reason.otherwise(None))
    # No hit is a count of 0, not a missing value.
    zero = (pl.when(pl.col("reason").is_null()).then(pl.col(f"gen_success_{k}").fill_null(0)).alias(f"gen_success_{k}") for k in KS)
    return counted.with_columns(zero).select(*TEXT_KEYS, *(f"gen_success_{k}" for k in KS), "reason")
