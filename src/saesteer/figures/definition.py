"""What a figure is: the table it reads, the data drawn, and how it is drawn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl
from matplotlib.figure import Figure

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


@dataclass(frozen=True)
class FigureDefinition:
    """A figure: `draw(data(tables, options))`; what `data` returns is all that is drawn, and is saved beside the image."""

    name: str
    data: Callable[[Tables, Options], pl.DataFrame]
    draw: Callable[[pl.DataFrame], Figure]
    counts: Callable[[pl.DataFrame], str]
    """n, missing and how the intervals were made, in this data: printed at the foot of the figure. How to read it says names.CAPTIONS."""
