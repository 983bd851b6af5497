"""GenSuccess@k, P1 (arXiv 2505.20063), section 4: how many generated tokens are among the feature's first k lens tokens."""

from typing import Any

import polars as pl

from saesteer.core.tables import GEN_SUCCESS
from saesteer.core.tokens import TextTokens

ALGORITHM_VERSION = 1
KS = (1, 5, 20)


def gen_success(generations: pl.DataFrame, lens: pl.DataFrame, tokens: TextTokens, convention: str) -> pl.DataFrame:
    """The GEN_SUCCESS rows of generations: counts of continuation tokens among the top 1, 5 and 20 lens tokens of the row's feature.

    convention "retokenised": the continuation's text is tokenised again (P1's program cuts the prefix off and tokenises the rest; of a
    model that answers it tokenises the response, which is what such a model's text is); "ids": the ids as generated.
    """
    ids: Any = tokens.retokenise(generations["text"].to_list()) if convention == "retokenised" else generations["token_ids"]
    rows = generations.select(GEN_SUCCESS.keys).with_columns(row=pl.int_range(pl.len()), id=pl.Series(ids, dtype=pl.List(pl.UInt32)))
    ranks = lens.select("layer", "feature", id="token_ids").explode("id").with_columns(rank=pl.int_range(pl.len()).over("layer", "feature"))
    hits = rows.select("row", "layer", "feature", "id").explode("id").join(ranks, on=["layer", "feature", "id"], how="inner")
    counts = hits.group_by("row").agg((pl.col("rank") < k).sum().cast(pl.UInt16).alias(f"gen_success_{k}") for k in KS)
    found = rows.drop("id").join(counts, on="row", how="left", maintain_order="left").drop("row")
    return found.with_columns(pl.col(f"gen_success_{k}").fill_null(0) for k in KS)  # no hit is a count of 0, not a missing value
