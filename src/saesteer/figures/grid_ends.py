"""How much of the chosen factors the grid decides."""

import polars as pl
from matplotlib.figure import Figure

from saesteer.analysis.grid_ends import ALL
from saesteer.figures.choice_rules import FACTOR_RULES
from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import WIDE, new_figure, styled


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table."""
    return tables["grid_ends"].sort("grid", "factor_rule", "layer").with_columns(confidence(options))


@styled
def draw(data: pl.DataFrame) -> Figure:
    """Shares of ends on the left, the cost of fewer factors on the right; a mark a layer."""
    layers = data["layer"].unique().sort().to_list()
    rules = [name for name in FACTOR_RULES if name in data["factor_rule"]]
    figure = new_figure(WIDE, 1.8 + 0.3 * max(8, 4 * len(rules)), counts(data))
    left, right = figure.subplots(1, 2)
    ends = [(rule, end) for rule in rules for end in ("at_smallest", "at_largest")]
    others = [grid for grid in data["grid"].unique().sort() if grid != ALL]
    fewer = [(rule, grid) for rule in rules for grid in others]
    for number, layer in enumerate(layers):
        own, beside = data.filter(layer=layer), dodged(number, len(layers), 0.3)
        for place, (rule, end) in enumerate(ends):
            rows = own.filter(grid=ALL, factor_rule=rule)
            dots(left, rows, end, pl.Series([place + beside] * rows.height), number)
        for place, (rule, grid) in enumerate(fewer):
            rows = own.filter(grid=grid, factor_rule=rule)
            dots(right, rows, "change", pl.Series([place + beside] * rows.height), number)
    named_rows(left, [f"{FACTOR_RULES[rule]}: {end[3:]}" for rule, end in ends], "share of chosen factors")
    left.set_xlim(left=min(-0.02, left.get_xlim()[0]))
    named_rows(right, [f"{FACTOR_RULES[rule]}: {grid}" for rule, grid in fewer], "held-out judge score, change", zero=0.0)
    left.set_ylabel("how factors are chosen")
    legend(figure, {f"layer {layer}": number for number, layer in enumerate(layers)})
    return figure


def counts(data: pl.DataFrame) -> str:
    """Choices, and what bars are."""
    if data.is_empty():
        return "n = 0 choices."
    return f"{n_of(data['n'])} choices of a factor (two a feature, a half each). Bars: {data['confidence'][0]:.0%} bootstrap over features."
