"""What the order of a text's words is worth to a language model. A list reads the same in any order."""

from collections.abc import Mapping

import polars as pl

from saesteer.analysis.acceptability import with_words_moved
from saesteer.engine.models import LanguageModel
from saesteer.engine.perplexity import continuation_nll, scored_prefix

ALGORITHM_VERSION = 1

N_ORDERS = 2
"""Other orders that a text's own is compared with."""


def with_order_nats(lm: LanguageModel, texts: pl.DataFrame, prompts: Mapping[str, str], prompt_format: str) -> pl.DataFrame:
    """Texts (prefix_id, text, mean_nll) with `order_nats`: how much higher the mean loss is, in nats per token, when the words that are no
    function words have moved on among their places. Null where there are fewer than two, or no loss. `prompts` and `prompt_format` as for
    the loss itself (engine.perplexity)."""
    before = {name: scored_prefix(prompt, prompt_format) for name, prompt in prompts.items()}
    numbered = texts.with_row_index("row").with_columns(prefix=pl.col("prefix_id").replace_strict(before, return_dtype=pl.String))
    different = numbered.filter(pl.col("mean_nll").is_not_null()).select("prefix", "text").unique(maintain_order=True)
    moved = [(prefix, text, other) for prefix, text in different.iter_rows() for other in with_words_moved(text, N_ORDERS)]
    orders = pl.DataFrame(moved, schema=pl.Schema({"prefix": pl.String, "said": pl.String, "text": pl.String}), orient="row")
    losses = continuation_nll(lm, orders.with_row_index("row"))["mean_nll"]
    means = orders.with_columns(moved_nll=losses).group_by("prefix", text="said").agg(pl.col("moved_nll").mean())
    with_moved = numbered.join(means, on=["prefix", "text"], how="left", maintain_order="left")
    return with_moved.with_columns(order_nats=pl.col("moved_nll") - pl.col("mean_nll")).select(*texts.columns, "order_nats")
