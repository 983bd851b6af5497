"""A panel of dots with intervals, a row a name.

What is drawn is a table of points: `mark` (which of the things compared, by its name in the legend), `value`, the ends of its interval
`low` and `high` (null without one), and `row` (a name down the left).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from saesteer.figures.style import (
    BLACK,
    MAGENTA,
    Axes,
    empty_panel,
)

LOOKS = (("o", BLACK), ("D", MAGENTA))
"""Marker and colour of the first and the second of what is compared."""


@dataclass(frozen=True)
class Mark:
    """How one of the things compared is drawn."""

    marker: str
    colour: str


Marks = Mapping[str, Mark]


@dataclass(frozen=True)
class DotPanel:
    """A panel of dots: its points and its rows, the first at the top."""

    points: pl.DataFrame
    rows: list[str]
    x_label: str
    title: str = ""
    left: float | None = None
    """The axis begins here, or further left where a point lies there."""
    empty: str = "nothing to compare"
    """What stands in the panel where no row has a value."""


def points(rows: pl.DataFrame, value: str, **columns: pl.Expr | str) -> pl.DataFrame:
    """The points of a column of values with its interval NAME_low to NAME_high, where there is one; `columns`: the others, a text being a
    constant."""
    ends = {end: f"{value}_{end}" if f"{value}_{end}" in rows.columns else None for end in ("low", "high")}
    expressions = {name: pl.lit(column) if isinstance(column, str) else column for name, column in columns.items()}
    numbers = {"value": pl.col(value)} | {end: pl.lit(None) if name is None else pl.col(name) for end, name in ends.items()}
    return rows.select(**expressions, **{name: number.cast(pl.Float64) for name, number in numbers.items()})


def draw_dots(axes: Axes, panel: DotPanel, marks: Marks) -> None:
    """A panel; the marks of a row lie beside one another."""
    places = {row: place for place, row in enumerate(panel.rows)}
    for number, (name, mark) in enumerate(marks.items()):
        beside = 0.0 if len(marks) < 2 else 0.5 * (number / (len(marks) - 1) - 0.5)
        for point in panel.points.filter(mark=name).drop_nulls("value").iter_rows(named=True):
            place = places[point["row"]] + beside
            if point["low"] is not None and point["low"] < point["high"]:
                axes.hlines(place, point["low"], point["high"], color=mark.colour, linewidth=1.2)
            axes.plot([point["value"]], [place], mark.marker, color=mark.colour, markersize=4.5)
    axes.set_yticks(range(len(panel.rows)), panel.rows)
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    if panel.left is not None:
        axes.set_xlim(left=min(panel.left, axes.get_xlim()[0]))
    axes.set_xlabel(panel.x_label)
    axes.set_title(panel.title)
    if panel.points["value"].count() == 0:
        empty_panel(axes, panel.empty)
