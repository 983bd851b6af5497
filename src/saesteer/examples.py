"""A few features as a reader can judge them: what they fire on, what they promote, what steering with them writes.

The features are chosen by rule, not by eye: as many late as early ones, each group spread evenly over the ranks of its output
scores from the lowest to the highest. The text shown is sample 0 of the first prefix, whatever it says.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from saesteer.files import text_id
from saesteer.tables import EXAMPLES

_FEATURE = ["layer", "feature"]


def example_features(features: pl.DataFrame, n: int, late_layers_from: int) -> pl.DataFrame:
    """Layer and feature of up to n examples: half early, half late (one more if n is odd); a small group leaves its places to the other."""
    is_late = pl.col("layer") >= late_layers_from
    ranked = features.sort("output_score", *_FEATURE)
    late, early = ranked.filter(is_late), ranked.filter(~is_late)
    n_early = min(max(n // 2, n - late.height), early.height)
    groups = [_spread(early, n_early), _spread(late, n - n_early)]
    return pl.concat(groups).select(_FEATURE).sort(_FEATURE)


def _spread(ranked: pl.DataFrame, n: int) -> pl.DataFrame:
    """n rows at even distances, first and last included (the last alone when n is 1)."""
    if n >= ranked.height:
        return ranked
    positions = np.linspace(ranked.height - 1, 0, n).round().astype(np.int64)
    return ranked[np.sort(positions)]


def examples(
    outcomes: pl.DataFrame,
    features: pl.DataFrame,
    records: pl.DataFrame,
    generations: pl.DataFrame,
    prefixes: Sequence[str],
    rule: str,
    n: int,
    late_layers_from: int,
) -> pl.DataFrame:
    """OUTCOMES, FEATURES, RECORDS and GENERATIONS rows and the prefixes in their order -> EXAMPLES, n rows at most.

    The factor is the one that the first prefix's half reports at, chosen on the other half, so the text was not used to choose it.
    """
    chosen = example_features(features, n, late_layers_from)
    factors = outcomes.filter(rule=rule).select(*_FEATURE, pl.col("factors").list.first().alias("factor"))
    known = features.select(*_FEATURE, "input_score", "output_score", "concept", "lens_tokens")
    first = generations.filter((pl.col("prefix_id") == text_id(prefixes[0])) & (pl.col("sample") == 0))
    steered = first.select(*_FEATURE, "factor", pl.col("text").alias("steered"))
    unsteered = first.filter(factor="0").select(*_FEATURE, pl.col("text").alias("unsteered"))
    contexts = _top_contexts(records.join(chosen, on=_FEATURE, how="semi"))
    frame = chosen.join(known, on=_FEATURE, how="left").join(factors, on=_FEATURE, how="left")
    for part, on in ((steered, [*_FEATURE, "factor"]), (unsteered, _FEATURE), (contexts, _FEATURE)):
        frame = frame.join(part, on=on, how="left")
    return frame.with_columns(pl.lit(prefixes[0]).alias("prefix")).select(list(EXAMPLES.columns)).sort(_FEATURE)


def _top_contexts(records: pl.DataFrame) -> pl.DataFrame:
    rows = [(row["layer"], row["feature"], _marked(row["records"])) for row in records.iter_rows(named=True)]
    schema = {"layer": EXAMPLES.columns["layer"].dtype, "feature": EXAMPLES.columns["feature"].dtype, "top_context": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _marked(records: list[dict[str, Any]]) -> str | None:
    """The text of the first record, its maximal token in brackets, "▁" written as the space it stands for."""
    if not records:
        return None
    top = min(records, key=lambda record: record["rank"])
    tokens = [token.replace("▁", " ") for token in top["context"]]
    marked = tokens[top["token_index"]]
    tokens[top["token_index"]] = f"{marked[: len(marked) - len(marked.lstrip())]}[{marked.strip()}]"
    return "".join(tokens).strip()
