"""The loss of steered texts under the second model, which never sees what a method added to the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from saesteer.core.tables.methods import NO_FIT, STEERED
from saesteer.engine.models import LanguageModel
from saesteer.engine.perplexity import continuation_nll, scored_prefix

ALGORITHM_VERSION = 1

AT_A_TIME = 8192
"""Most rows of a frame."""


def steered_nll(lm: LanguageModel, steered: pl.DataFrame, prompts: Mapping[str, str], prompt_format: str) -> Iterator[pl.DataFrame]:
    """The STEERED_PERPLEXITY rows of STEERED rows, some at a time, one layer in each frame.

    mean_nll is in nats a token, of the text given its prompt alone (`prompts`: prefix_id -> prompt; `prompt_format` of the model that wrote
    it), as perplexity.continuation_nll defines it. It is null where the method abstains and where the text is empty.
    """
    unknown = set(steered["prefix_id"]) - set(prompts)
    if unknown:
        raise ValueError(f"there are texts with prefix_id {min(unknown)}, but no such prompt: steer again, or give the prompts of this run")
    before = {name: scored_prefix(prompt, prompt_format) for name, prompt in prompts.items()}
    rows = steered.with_columns(prefix=pl.col("prefix_id").replace_strict(before, return_dtype=pl.String))
    for _, of_layer in rows.group_by("layer", maintain_order=True):
        for some in of_layer.iter_slices(AT_A_TIME):
            yield _scored(lm, some.with_row_index("row"))


def _scored(lm: LanguageModel, rows: pl.DataFrame) -> pl.DataFrame:
    losses = continuation_nll(lm, rows.filter(pl.col("text").is_not_null()))
    scored = rows.join(losses, on="row", how="left", maintain_order="left")
    abstains = pl.when(pl.col("text").is_null()).then(pl.lit(NO_FIT))
    reason = abstains.when(pl.col("mean_nll").is_null()).then(pl.lit("the continuation is empty"))
    return scored.select(*STEERED.keys, "mean_nll", pl.col("n_scored").fill_null(0), reason=reason)
