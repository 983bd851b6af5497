"""How much of the chosen factors the grid decides."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, counted
from saesteer.figures.style import Figure
from studies.questions.figures.choice_rules import FACTOR_RULES
from studies.questions.figures.dots import DotPanel, dot_figure, layer_marks, points
from studies.questions.grid_ends import ALL

_ENDS = {"at_smallest": "smallest", "at_largest": "largest"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table."""
    return tables["grid_ends"].sort("grid", "factor_rule", "layer").with_columns(confidence(options))


def draw(data: pl.DataFrame) -> Figure:
    """Shares of ends on the left, the cost of fewer factors on the right; a mark a layer."""
    titles = [title for rule, title in FACTOR_RULES.items() if rule in data["factor_rule"]]
    smaller = [grid for grid in data["grid"].unique().sort() if grid != ALL]
    named = data.with_columns(rule=pl.col("factor_rule").replace_strict(FACTOR_RULES), mark=pl.format("layer {}", "layer"))
    mark, of_all = pl.col("mark"), named.filter(grid=ALL)
    shares = pl.concat(points(of_all, column, row=pl.format(f"{{}}: {end}", "rule"), mark=mark) for column, end in _ENDS.items())
    costs = points(named.filter(pl.col("grid") != ALL), "change", row=pl.format("{}: {}", "rule", "grid"), mark=mark)
    ends = [f"{title}: {end}" for title in titles for end in _ENDS.values()]
    grids = [f"{title}: {grid}" for title in titles for grid in smaller]
    panels = [
        DotPanel(
            shares.sort(pl.col("row").cast(pl.Enum(ends))),
            ends,
            "share of chosen factors",
            title="choices at the ends of the grid",
            left=-0.02,
        ),
        DotPanel(
            costs.sort(pl.col("row").cast(pl.Enum(grids))),
            grids,
            "held-out judge score, change",
            title="what fewer factors change",
            zero=0.0,
        ),
    ]
    height = 0.7 + 0.2 * max(6, 2 * len(titles))
    return dot_figure(panels, layer_marks(data["layer"]), height, counts(data), "how factors are chosen", columns=1, spread=0.3)


def in_order(dots: pl.DataFrame, rows: list[str]) -> pl.DataFrame:
    """Points in the order of their rows."""
    return dots.sort(pl.col("row").cast(pl.Enum(rows)))


counts = counted("n", "choices", " of a factor (two a feature, a half each). Bars: {level} intervals over features.")

FIGURE = FigureDefinition(
    position=140,
    tables=("grid_ends",),
    caption="Shares of the chosen factors that are the grid's smallest or largest (top), and what choosing from fewer factors changes in "
    "the held-out judge score (bottom), for each rule that chooses factors.",
    data=data,
    draw=draw,
    counts=counts,
)
