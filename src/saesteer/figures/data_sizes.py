"""Quantities from fewer records or fewer labelled texts."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saesteer.analysis.choice_rules import RULES
from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import LOOKS
from saesteer.figures.method_families import n_of
from saesteer.figures.style import WIDE, band, empty_panel, log_axis, new_figure, styled, with_ends

_COLUMNS = {"rho": "rank correlation with most data", "score": "held-out judge score of the pick"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table."""
    return tables["data_sizes"].sort("layer", "rule", "n").with_columns(confidence(options))


def panel(axes: Axes, rows: pl.DataFrame, column: str) -> None:
    """A line a quantity."""
    for number, own in enumerate(rows.partition_by("rule", maintain_order=True)):
        marker, colour = LOOKS[number]
        band(axes, own["n"].to_numpy(), own, with_ends(column), colour, RULES[own["rule"][0]], marker)
    log_axis(axes, rows["n"])
    axes.set_xlabel("records of a feature, or labelled texts of a concept")


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A row a layer."""
    layers = data.partition_by("layer", maintain_order=True)
    figure = new_figure(WIDE, 1.2 + 2.6 * max(1, len(layers)), counts(data))
    panels = figure.subplots(max(1, len(layers)), 2, squeeze=False)
    for row, rows in zip(panels, layers, strict=False):
        for axes, column in zip(row, _COLUMNS, strict=True):
            panel(axes, rows, column)
            axes.set_ylabel(f"layer {rows['layer'][0]}\n{_COLUMNS[column]}")
    for axes in panels[0] if not layers else ():
        axes.set_xlabel("records or labelled texts")
        axes.set_ylabel("agreement")
        empty_panel(axes, "no feature with a concept")
    if layers:
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features, and what bands are."""
    if data.is_empty():
        return "n = 0 features."
    level = f"{data['confidence'][0]:.0%}"
    features, concepts = n_of(data["n_features"]), n_of(data["n_concepts"])
    return f"{features} features, {concepts} concepts. Bands: {level} bootstrap over features (left), concepts (right)."
