"""Max-activating examples: the texts in which a feature is most active, from the cached activations of a corpus, and a histogram of these.

One schema for every source, so that examples computed here and examples downloaded from Neuronpedia are read by the same code.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from saesteer.core.texts import EXAMPLE
from saesteer.core.tokens import TextTokens

ALGORITHM_VERSION = 4

N_BINS = 20
"""Bins of an activation histogram, of equal width from 0 to the largest activation."""


def max_activating_examples(
    activations: pl.DataFrame, texts: pl.DataFrame, features: Sequence[int], n_examples: int, tokens: TextTokens
) -> pl.DataFrame:
    """The MAX_ACTIVATING_EXAMPLES rows of one layer's features, from its ACTIVATIONS rows.

    A text's maximum is at the first token that reaches it; max-activating examples are the texts with the largest maxima, ties by
    text_id. A feature that is never active has no max-activating examples, no largest activation and no histogram. Density is over the
    tokens that count, as the rows do: neither BOS nor another special token.
    """
    wanted = pl.DataFrame({"feature": list(features)}, schema={"feature": pl.UInt32})
    active = activations.select("text_id", "token_index", "feature", "value").explode("token_index", "feature", "value")
    active = active.join(wanted, on="feature", how="semi")
    n_tokens = activations["n_ordinary"].cast(pl.Int64).sum()
    counts = active.group_by("feature").agg(n_active=pl.len(), max_activation=pl.col("value").max())
    strings = pl.Series([tokens.strings(ids) for ids in texts["token_ids"].to_list()], dtype=pl.List(pl.String))
    contexts = texts.select("text_id", "token_ids", context=strings)
    examples = _largest(_maxima(active), n_examples).join(contexts, on="text_id", how="left", maintain_order="left")
    examples = _with_tokens(examples).group_by("feature", maintain_order=True).agg(examples=pl.struct(list(EXAMPLE.to_schema())))
    rows = wanted.join(counts, on="feature", how="left").join(_histograms(active, counts), on="feature", how="left")
    rows = rows.join(examples, on="feature", how="left")
    return rows.select(
        layer=pl.lit(activations["layer"][0], pl.UInt16),
        feature="feature",
        # NumPy divides; Polars multiplies a column by a scalar's reciprocal, unless it has one row: a feature alone would differ.
        density=pl.Series(rows["n_active"].fill_null(0).to_numpy() / n_tokens) if n_tokens else pl.lit(None, pl.Float64),
        max_activation="max_activation",
        histogram_activations="histogram_activations",
        histogram_counts="histogram_counts",
        n_examples=pl.col("examples").list.len().fill_null(0),
        examples=pl.col("examples").fill_null(pl.lit([], pl.List(EXAMPLE))),
        explanations=pl.lit([], pl.List(pl.String)),
        source=pl.lit("local"),
        reason=pl.when(pl.col("examples").is_null()).then(pl.lit("never active on the texts")),
    )


def _histograms(active: pl.DataFrame, counts: pl.DataFrame) -> pl.DataFrame:
    """Each feature's activation histogram: the middles of its bins, and how many tokens are in each; the largest activation is in the
    last."""
    largest = pl.col("max_activation").cast(pl.Float64)
    place = (pl.col("value").cast(pl.Float64) * N_BINS / largest).floor().clip(upper_bound=N_BINS - 1)
    placed = active.join(counts, on="feature").select("feature", "max_activation", place=place)
    in_bins = pl.concat_list((pl.col("place") == number).sum() for number in range(N_BINS))
    histograms = placed.group_by("feature", "max_activation").agg(histogram_counts=in_bins)
    middles = np.multiply.outer(histograms["max_activation"].to_numpy(), (np.arange(N_BINS) + 0.5) / N_BINS)
    return histograms.select(
        "feature",
        pl.Series("histogram_activations", middles.tolist(), dtype=pl.List(pl.Float32)),
        pl.col("histogram_counts").cast(pl.List(pl.UInt32)),
    )


def _maxima(active: pl.DataFrame) -> pl.DataFrame:
    """Each feature's largest value in each text, at the first token that has it."""
    ordered = active.sort("feature", "text_id", "value", "token_index", descending=[False, False, True, False])
    return ordered.unique(subset=["feature", "text_id"], keep="first", maintain_order=True)


def _largest(maxima: pl.DataFrame, n_examples: int) -> pl.DataFrame:
    ordered = maxima.sort("feature", "value", "text_id", descending=[False, True, False])
    ranked = ordered.with_columns(rank=pl.int_range(pl.len(), dtype=pl.UInt16).over("feature"))
    return ranked.filter(pl.col("rank") < n_examples)


def _with_tokens(examples: pl.DataFrame) -> pl.DataFrame:
    at_maximum = pl.col("token_index")
    return examples.with_columns(
        token=pl.col("context").list.get(at_maximum),
        token_id=pl.col("token_ids").list.get(at_maximum).cast(pl.UInt32),
        max_value=pl.col("value"),
    )
