"""What a figure is, and what the modules of figures share besides drawing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from saesteer.figures.style import Figure
from saesteer.settings import Experiment, IntervalSettings, SelectionSettings

Tables = Mapping[str, pl.DataFrame]
SMALL = 1e-4
"""Thresholds below it are shown only where they keep other features than the threshold before."""
FEWEST = 5
"""Means of fewer features have no band: their intervals span most of the axis and say nothing."""
FEW_NOTE = f"no bands for fewer than {FEWEST} features"


@dataclass(frozen=True)
class Options:
    """What of an experiment's settings decides which rows are shown."""

    rule: str
    """Best-factor rule whose outcomes are shown: capped or p1; of a sweep's figures."""
    intervals: IntervalSettings
    has_pilot: bool = False
    """Whether a sweep's factors are multiples of each feature's pilot factor where features are compared."""
    in_sample: bool = False
    """Whether factors were chosen on the very texts that are reported (`factor_choice: same_texts`), so that no score is held out."""

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


def in_sample(options: Options) -> list[pl.Expr]:
    """A column that says that no score is held out; none where scores are."""
    return [pl.lit(True).alias("in_sample")] if options.in_sample else []


def constants(options: Options) -> list[pl.Expr]:
    """Columns of the data of a sweep's figure that are the same in every row: the level of its intervals, and `in_sample`."""
    return [pl.lit(options.intervals.confidence).alias("confidence"), *in_sample(options)]


def first_layer(options: Options) -> pl.Expr:
    """The first layer of a row's set."""
    return pl.when(layers="late").then(options.selection.late_layers_from).otherwise(0).alias("first_layer")


def held_out(data: pl.DataFrame, between: str = "-") -> str:
    """What scores are called by the texts that chose their factors."""
    return f"in{between}sample" if "in_sample" in data.columns else f"held{between}out"


def n_of(sizes: pl.Series) -> str:
    """How many things stand behind the numbers of a figure: one n, or the fewest and the most."""
    fewest, most = (int(size) for size in (sizes.to_numpy().min(), sizes.to_numpy().max()))
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def where_something_changes(curves: pl.DataFrame, *curve: str, always: float | None = None) -> pl.DataFrame:
    """Rows of `threshold` and `n_kept` without the small thresholds at which every curve keeps as many features as at the threshold before;
    `curve`: the columns that name a curve. The threshold `always` stays."""
    before = pl.col("n_kept").shift(1).over(*(curve or (pl.lit(0),)), order_by="threshold")
    small = curves.with_columns(changes=before.is_null() | (pl.col("n_kept") != before)).filter(pl.col("threshold") < SMALL)
    shown = small.filter("changes" if always is None else pl.col("changes") | (pl.col("threshold") == always))["threshold"]
    return curves.filter((pl.col("threshold") >= SMALL) | pl.col("threshold").is_in(shown.unique().implode()))


def banded(rows: pl.DataFrame, n: pl.Expr | str, *ends: str) -> pl.DataFrame:
    """The rows, the ends of intervals null where they are of fewer than FEWEST features."""
    enough = (pl.col(n) if isinstance(n, str) else n).cast(pl.Int64) >= FEWEST
    return rows.with_columns(pl.when(enough).then(end).alias(end) for end in ends)
