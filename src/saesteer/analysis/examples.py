"""A few features as a reader can judge them: what they fire on, what they promote, what steering with them writes.

The features are chosen by rule, not by eye: as many late as early ones, each group spread evenly over the ranks of its output
scores from the lowest to the highest. The text shown is sample 0 of the first prefix, whatever it says.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from saesteer.analysis.tables import EXAMPLES
from saesteer.core.files import text_id

N_FEATURES = 8
"""Examples of an experiment."""

_FEATURE = ["layer", "feature"]
_AROUND = 12  # tokens of an example shown on each side of its maximum
_MARKER = re.compile(r"<[^0][^<>]*>")  # not <0x0A>, which is a byte of the text


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
    examples: pl.DataFrame,
    generations: pl.DataFrame,
    prefixes: Sequence[str],
    rule: str,
    n: int,
    late_layers_from: int,
) -> pl.DataFrame:
    """OUTCOMES, FEATURES, MAX_ACTIVATING_EXAMPLES and GENERATIONS rows and the prefixes in their order -> EXAMPLES, n rows at most.

    The factor is the one that the first prefix's half reports at, chosen on the other half, so the text was not used to choose it.
    """
    chosen = example_features(features, n, late_layers_from)
    factors = outcomes.filter(rule=rule).select(*_FEATURE, pl.col("factors").list.first().alias("factor"))
    known = features.select(*_FEATURE, "page", "input_score", "output_score", "concept", "top_logit_lens_tokens")
    first = generations.filter((pl.col("prefix_id") == text_id(prefixes[0])) & (pl.col("sample") == 0))
    steered = first.select(*_FEATURE, "factor", pl.col("text").alias("steered"))
    unsteered = first.filter(factor="0").select(*_FEATURE, pl.col("text").alias("unsteered"))
    contexts = _top_contexts(examples.join(chosen, on=_FEATURE, how="semi"))
    frame = chosen.join(known, on=_FEATURE, how="left").join(factors, on=_FEATURE, how="left")
    for part, on in ((steered, [*_FEATURE, "factor"]), (unsteered, _FEATURE), (contexts, _FEATURE)):
        frame = frame.join(part, on=on, how="left")
    return frame.with_columns(pl.lit(prefixes[0]).alias("prefix")).select(list(EXAMPLES.columns)).sort(_FEATURE)


def _top_contexts(examples: pl.DataFrame) -> pl.DataFrame:
    rows = [(row["layer"], row["feature"], _marked(row["examples"])) for row in examples.iter_rows(named=True)]
    schema = {"layer": EXAMPLES.columns["layer"].dtype, "feature": EXAMPLES.columns["feature"].dtype, "top_context": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _marked(examples: list[dict[str, Any]]) -> str | None:
    """The words around the first example's maximal token, which is in brackets; "▁" is written as the space it stands for."""
    if not examples:
        return None
    top = min(examples, key=lambda example: example["rank"])
    at, context = top["token_index"], top["context"]
    # A text's first token is left out where it is a marker such as <bos>.
    begins = 1 if _MARKER.fullmatch(context[0]) and at > 0 else 0
    first = max(at - _AROUND, begins)
    before, marked, after = (
        "".join(part).replace("▁", " ") for part in (context[first:at], [context[at]], context[at + 1 : at + 1 + _AROUND])
    )
    space = " " if marked.startswith(" ") else ""
    ends = ("… " if first > begins else "", " …" if at + 1 + _AROUND < len(context) else "")
    inner = f"{before}{space}[{marked.strip(' ')}]{after}"
    return f"{ends[0]}{inner.strip(' ')}{ends[1]}"
