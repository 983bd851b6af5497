"""Panels of dots with intervals, a row a name, and of curves with bands: what most figures of the open questions consist of.

What is drawn is a table of points: `mark` (which of the things compared, by its name in the legend), `value`, the ends of its interval
`low` and `high` (null without one), and `row` (a name down the left) or `x`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from saesteer.figures.style import (
    BLACK,
    BLUE,
    GREY,
    MAGENTA,
    PAGE,
    Axes,
    Figure,
    band,
    empty_panel,
    legend_above,
    legend_entry,
    log_axis,
    new_figure,
    zero_apart,
)

LOOKS = (
    ("o", BLACK),
    ("D", MAGENTA),
    ("^", BLUE),
    ("s", GREY),
    ("v", "#009E73"),
    ("P", "#D55E00"),
    ("X", "#7B4FA3"),
    ("*", "#A6761D"),
    ("<", "#56B4E9"),
    (">", "#8C2D04"),
)
"""Marker and colour of the first, second, ... of what is compared."""


@dataclass(frozen=True)
class Mark:
    """How one of the things compared is drawn."""

    look: int
    """Its place in LOOKS."""

    @property
    def marker(self) -> str:
        return LOOKS[self.look % len(LOOKS)][0]

    @property
    def colour(self) -> str:
        return LOOKS[self.look % len(LOOKS)][1]


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


def marks_of(names: Sequence[str]) -> dict[str, Mark]:
    """The looks in their order."""
    return {name: Mark(number) for number, name in enumerate(names)}


def layer_marks(layers: pl.Series) -> dict[str, Mark]:
    """A mark a layer."""
    return marks_of([f"layer {layer}" for layer in layers.unique().sort()])


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


def draw_curves(axes: Axes, curves: pl.DataFrame, marks: Marks) -> None:
    """A line with its band a mark, over a logarithmic axis."""
    for name, mark in marks.items():
        curve = curves.filter(mark=name)
        curve = zero_apart(curve, "x")
        band(axes, curve["x"].to_numpy(), curve, ("value", "low", "high"), mark.colour, name, mark.marker)
    log_axis(axes, curves["x"])


def dot_figure(panel: DotPanel, marks: Marks, height: float, note: str, y_label: str) -> Figure:
    """A panel of dots on a page's width, `height` inches of it, with its legend."""
    figure = new_figure(PAGE, 1.0 + height, note)
    axes = figure.subplots()
    draw_dots(axes, panel, marks)
    axes.set_ylabel(y_label)
    legend(figure, marks)
    return figure


def two_panels_a_layer(data: pl.DataFrame, note: str) -> tuple[Figure, list[tuple[Axes, Axes, pl.DataFrame]]]:
    """A figure, and of each layer its left panel, its right one and its rows. Where there is no layer the panels are there, and say so."""
    layers = data.partition_by("layer", maintain_order=True)
    figure = new_figure(PAGE, 1.2 + 2.6 * max(1, len(layers)), note)
    panels = figure.subplots(max(1, len(layers)), 2, squeeze=False)
    for axes in panels[0] if not layers else ():
        axes.set(title="agreement", xlabel="setting", ylabel="agreement")
        empty_panel(axes, "nothing to compare")
    return figure, [(left, right, rows) for (left, right), rows in zip(panels, layers, strict=False)]


def legend(figure: Figure, marks: Marks) -> None:
    """What each mark is, above the panels."""
    handles = [legend_entry(name, mark.colour, marker=mark.marker) for name, mark in marks.items()]
    if handles:
        legend_above(figure, handles, list(marks), columns=5)
