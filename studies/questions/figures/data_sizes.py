"""Quantities from fewer max-activating examples or fewer labelled texts."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, n_of
from saesteer.figures.style import Figure, legend_above
from studies.questions.choice_rules import RULES
from studies.questions.figures.dots import draw_curves, marks_of, points, two_panels_a_layer

_COLUMNS = {"rho": "rank correlation with most data", "score": "held-out judge score of the pick"}
_TITLES = {"rho": "agreement", "score": "score of the pick"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table."""
    return tables["data_sizes"].sort("layer", "rule", "n").with_columns(confidence(options))


def draw(data: pl.DataFrame) -> Figure:
    """A row a layer, a curve a quantity."""
    figure, layers = two_panels_a_layer(data, counts(data))
    for left, right, rows in layers:
        for axes, (column, title) in zip((left, right), _COLUMNS.items(), strict=True):
            curves = points(rows, column, x=pl.col("n"), mark=pl.col("rule").replace_strict(RULES))
            draw_curves(axes, curves, marks_of(curves["mark"].unique(maintain_order=True).to_list()))
            axes.set_xlabel("examples, or labelled texts")
            axes.set_ylabel(title)
            axes.set_title(f"{_TITLES[column]}, layer {rows['layer'][0]}")
    if layers:
        legend_above(figure, *layers[0][0].get_legend_handles_labels(), columns=4)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features, and what bands are."""
    if data.is_empty():
        return "n = 0 features."
    level = f"{data['confidence'][0]:.0%}"
    features, concepts = n_of(data["n_features"]), n_of(data["n_concepts"])
    return f"{features} features, {concepts} concepts. Bands: {level} intervals over features (left), concepts (right)."


FIGURE = FigureDefinition(
    position=160,
    tables=("data_sizes",),
    caption="Quantities from fewer max-activating examples of a feature, or from fewer labelled texts of a concept: rank correlation with "
    "the same quantity from most (left), and the held-out judge score of the feature that it picks for a concept (right).",
    data=data,
    draw=draw,
    counts=counts,
)
