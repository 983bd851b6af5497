"""What every figure's module works with.

A module of a figure has three functions: `data(tables, options)`, all that is drawn, which is saved beside the image; `draw(data)`; and
`counts(data)`, printed at the figure's foot: n, what is missing, how the intervals were made. How to read it says names.CAPTIONS.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from saesteer.settings import SelectionSettings

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Options:
    """What of an experiment's settings decides which rows are shown."""

    rule: str
    """Best-factor rule whose outcomes are shown: capped or p1."""
    selection: SelectionSettings


def confidence(options: Options) -> pl.Expr:
    """The level of the intervals drawn, a column of the data."""
    return pl.lit(options.selection.confidence).alias("confidence")
