"""What a figure is, and what the modules of figures share besides drawing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from saesteer.figures.style import Figure
from saesteer.settings import Experiment, IntervalSettings, SelectionSettings

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Options:
    """What of an experiment's settings decides which rows are shown."""

    rule: str
    """Best-factor rule whose outcomes are shown: capped or p1; of a sweep's figures."""
    intervals: IntervalSettings
    has_pilot: bool = False
    """Whether a sweep's factors are multiples of each feature's pilot factor where features are compared."""

    @property
    def selection(self) -> SelectionSettings:
        """The filter by output score, of a sweep's figures."""
        assert isinstance(self.intervals, SelectionSettings)
        return self.intervals


@dataclass(frozen=True)
class FigureDefinition:
    """A figure; its name is its module's."""

    position: int
    """Its place among the figures of the report."""
    tables: tuple[str, ...]
    """The summary tables that it reads."""
    caption: str
    """What is shown and how to read it: in the report (`saesteer report`), and in the figure's log."""
    data: Callable[[Tables, Options], pl.DataFrame]
    """All that is drawn, which is saved beside the image."""
    draw: Callable[[pl.DataFrame], Figure]
    """The figure of matplotlib; the registry draws it in the style of all."""
    counts: Callable[[pl.DataFrame], str]
    """The note at its foot: n, what is missing, how the intervals were computed."""
    applies: Callable[[Experiment], bool] = lambda experiment: True
    """Whether an experiment that has the tables has the figure."""


def confidence(options: Options) -> pl.Expr:
    """The level of the intervals drawn, a column of the data."""
    return pl.lit(options.intervals.confidence).alias("confidence")


def n_of(sizes: pl.Series) -> str:
    """How many things stand behind the numbers of a figure: one n, or the fewest and the most."""
    fewest, most = (int(size) for size in (sizes.to_numpy().min(), sizes.to_numpy().max()))
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def counted(column: str, unit: str, rest: str) -> Callable[[pl.DataFrame], str]:
    """The note "n = ... UNIT" by a column of sample sizes, and the rest of it, in which {level} is the level of the intervals."""

    def counts(data: pl.DataFrame) -> str:
        sizes = data[column].drop_nulls()
        if sizes.is_empty():
            return f"n = 0 {unit}."
        return f"{n_of(sizes)} {unit}{rest.format(level=format(data['confidence'][0], '.0%'))}"

    return counts
