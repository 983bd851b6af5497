"""Methods that read and change nothing at a layer are fitted, generated and judged once, at the experiment's first layer; their rows stand
for every layer."""

from collections.abc import Sequence

import polars as pl

from saesteer.settings.registry import METHODS


def at_every_layer(rows: pl.DataFrame, layers: Sequence[int]) -> pl.DataFrame:
    """Rows with columns layer and method; those of methods without a layer, made at the first of the layers, once for each."""
    first, *other_layers = sorted(layers)
    once = rows.filter(pl.col("method").is_in([row.key for row in METHODS if not row.has_layer]), pl.col("layer") == first)
    return pl.concat([rows, *(once.with_columns(layer=pl.lit(layer, rows.schema["layer"])) for layer in other_layers)])
