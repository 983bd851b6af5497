"""Whether steering lasts: the concept rating of texts, stretch by stretch."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, counted
from saesteer.figures.style import PAGE, Figure, band, legend_above, new_figure, with_ends
from studies.questions.figures.dots import LOOKS, Mark, layer_title

_LINE_STYLES = ("-", "--", ":", "-.")
"""Of the first, second, ... methods that share a look."""


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The table, in the order of its keys."""
    return tables["persistence"].sort("layer", "method", "stretch")


def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer, one below the other; a line a method, with a marker of its own."""
    from matplotlib.ticker import MaxNLocator

    layers = data.partition_by("layer", maintain_order=True)
    titles = data["title"].unique(maintain_order=True).to_list()
    figure = new_figure(PAGE, 1.2 + 3.4 * max(1, len(layers)), counts(data))
    panels = figure.subplots(max(1, len(layers)), 1, squeeze=False, sharex=True)[:, 0]
    for axes, rows in zip(panels, layers, strict=False):
        for number, title in enumerate(titles):
            stretches, mark = rows.filter(title=title), Mark(number)
            band(axes, stretches["stretch"].to_numpy(), stretches, with_ends("concept_rating"), mark.colour, title, mark.marker)
            axes.lines[-1].set(linestyle=_LINE_STYLES[number // len(LOOKS)], markersize=6)
        axes.set_title(layer_title(rows))
        axes.set_xlabel("stretch of the text")
        axes.set_ylim(0, 2.05)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("concept rating of the stretch (0–2)")
    legend_above(figure, *panels[0].get_legend_handles_labels(), columns=3, handlelength=3)
    return figure


counts = counted("n", "concepts", ", held-out texts at the chosen factors. Bands: {level} intervals over concepts.")

FIGURE = FigureDefinition(
    position=220,
    tables=("persistence",),
    caption="Mean concept rating of successive stretches of held-out texts at the chosen factors, each by itself: a line that falls loses "
    "the concept as the text goes on. A stretch is shorter than what the judge was measured on, so levels are lower than scores.",
    data=data,
    draw=draw,
    counts=counts,
)
