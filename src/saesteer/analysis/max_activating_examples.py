"""Max-activating examples: the texts in which a feature is most active, from the cached activations of a corpus.

One schema for every source, so that examples computed here and examples downloaded from Neuronpedia are read by the same code.
"""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import EXAMPLE, MAX_ACTIVATING_EXAMPLES
from saesteer.core.tokens import TextTokens

ALGORITHM_VERSION = 3


def max_activating_examples(
    activations: pl.DataFrame, texts: pl.DataFrame, features: Sequence[int], n_examples: int, tokens: TextTokens
) -> pl.DataFrame:
    """The MAX_ACTIVATING_EXAMPLES rows of one layer's features, from its ACTIVATIONS rows.

    A text's maximum is at the first token that reaches it; max-activating examples are the texts with the largest maxima, ties by
    text_id. A feature that is never active has no max-activating examples and no largest activation. Density is over all tokens but BOS.
    """
    wanted = pl.DataFrame({"feature": list(features)}, schema={"feature": pl.UInt32})
    active = activations.select("text_id", "token_index", "feature", "value").explode("token_index", "feature", "value")
    active = active.join(wanted, on="feature", how="semi")
    n_tokens = activations["n_tokens"].cast(pl.Int64).sum() - activations.height
    counts = active.group_by("feature").agg(n_active=pl.len(), max_activation=pl.col("value").max())
    strings = pl.Series([tokens.strings(ids) for ids in texts["token_ids"].to_list()], dtype=pl.List(pl.String))
    contexts = texts.select("text_id", "token_ids", context=strings)
    examples = _kept(_maxima(active), n_examples).join(contexts, on="text_id", how="left", maintain_order="left")
    examples = _with_tokens(examples).group_by("feature", maintain_order=True).agg(examples=pl.struct(list(EXAMPLE.to_schema())))
    rows = wanted.join(counts, on="feature", how="left").join(examples, on="feature", how="left")
    return rows.select(
        layer=pl.lit(activations["layer"][0], pl.UInt16),
        feature="feature",
        # NumPy divides; Polars multiplies a column by a scalar's reciprocal, unless it has one row: a feature alone would differ.
        density=pl.Series(rows["n_active"].fill_null(0).to_numpy() / n_tokens),
        max_activation="max_activation",
        n_examples=pl.col("examples").list.len().fill_null(0),
        examples=pl.col("examples").fill_null(pl.lit([], MAX_ACTIVATING_EXAMPLES.columns["examples"].dtype)),
        explanations=pl.lit([], MAX_ACTIVATING_EXAMPLES.columns["explanations"].dtype),
        source=pl.lit("local"),
        reason=pl.when(pl.col("examples").is_null()).then(pl.lit("never active on the texts")),
    )


def _maxima(active: pl.DataFrame) -> pl.DataFrame:
    """Each feature's largest value in each text, at the first token that has it."""
    ordered = active.sort("feature", "text_id", "value", "token_index", descending=[False, False, True, False])
    return ordered.unique(subset=["feature", "text_id"], keep="first", maintain_order=True)


def _kept(maxima: pl.DataFrame, n_examples: int) -> pl.DataFrame:
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
