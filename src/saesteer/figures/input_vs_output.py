"""Input score against output score, one point per feature (P1, arXiv 2505.20063, figure 6)."""

import itertools

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables
from saesteer.figures.style import GREY, PAGE, SMALLEST, Axes, Figure, PathCollection, layer_bar, new_figure, scatter_by_layer

_RIGHT = {False: 0.49, True: 1.02}
_HEIGHT = {False: (-0.11, "bottom"), True: (1.1, "top")}  # beyond the points, which end at 0 and 1


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """Every feature's two scores; those without an input score stay in the data and are not drawn."""
    return tables["features"].select("layer", "feature", "input_score", "output_score").sort("layer", "feature")


def panel(axes: Axes, data: pl.DataFrame) -> PathCollection:
    """The scatter, quadrant lines at .5 and their counts; returns the points, for a colour bar."""
    scored = data.drop_nulls("input_score")
    points = scatter_by_layer(axes, scored, "input_score", "output_score", data["layer"])
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    for (high_input, x), (high_output, (y, anchor)) in itertools.product(_RIGHT.items(), _HEIGHT.items()):
        inside = ((scored["input_score"] > 0.5) == high_input) & ((scored["output_score"] > 0.5) == high_output)
        axes.text(x, y, f"n = {inside.sum()}", ha="right", va=anchor, fontsize=SMALLEST, color=GREY)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.12, 1.11)
    axes.set_title("input and output score")
    axes.set_xlabel("input score (0 to 1)")
    axes.set_ylabel("output score (0 to 1)")
    return points


def draw(data: pl.DataFrame) -> Figure:
    """One panel with its colour bar."""
    figure = new_figure(PAGE * 0.85, 4.8, counts(data))
    axes = figure.subplots()
    layer_bar(figure, panel(axes, data), axes)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features drawn and features without an input score."""
    missing = data["input_score"].null_count()
    return f"n = {data.height - missing} features; {missing} without input score are not drawn."


FIGURE = FigureDefinition(
    position=40,
    tables=("features",),
    caption="Each point is a feature, coloured by its layer; the lines at .5 part the four cases and each quarter says how many lie in "
    "it: few features score high on both.",
    data=data,
    draw=draw,
    counts=counts,
)
