"""Choosing a factor as P1 does: by how many lens tokens of the feature its texts hold, over their perplexity.

The rule of analysis.best_factor for texts of methods: it needs a feature whose lens tokens can be counted, so it is for methods that steer
with one SAE feature.
"""

from __future__ import annotations

import polars as pl

from saesteer.analysis.gen_success import gen_success
from saesteer.core.tables.methods import FITS, STEERED
from saesteer.core.tokens import TextTokens

GEN_SUCCESS_LIMIT = 3.0
"""More lens tokens a text than this is repetition: such a factor is not chosen (P1, arXiv 2505.20063, steering experiments)."""


def steered_success(steered: pl.DataFrame, fits: pl.DataFrame, lens: pl.DataFrame, tokens: TextTokens) -> pl.DataFrame:
    """STEERED, FITS and LOGIT_LENS -> STEERED's keys and gen_success_20 (GenSuccess@20, P1, section 4), for fits with one SAE feature."""
    alone = fits.filter(pl.col("kind").is_not_null(), pl.col("features").list.len() == 1)
    texts = steered.join(alone.select(*FITS.keys, feature=pl.col("features").list.first()), on=FITS.keys, how="inner")
    return texts.select(STEERED.keys).with_columns(gen_success(texts, lens, tokens, "retokenised")["gen_success_20"])


def p1_ratio(curve: list[str]) -> pl.Expr:
    """(GenSuccess / its largest) / (perplexity / its largest) of columns gen_success_20 and log_perplexity, each largest being that of the
    factors of one `curve` (columns that name it) which may be chosen; null for a factor that may not. 0 where no factor has any success, so
    that the smallest is chosen."""
    allowed = (pl.col("gen_success_20") <= GEN_SUCCESS_LIMIT) & pl.col("log_perplexity").is_not_null()
    success, loss = (pl.when(allowed).then(pl.col(name)) for name in ("gen_success_20", "log_perplexity"))
    return (success / success.max().over(curve)).fill_nan(0.0) / (loss - loss.max().over(curve)).exp()
