"""Whether steering lasts: the concept rating of texts, stretch by stretch."""

import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saesteer.figures.definition import Options, Tables
from saesteer.figures.dots import LAYER_STYLES, LOOKS
from saesteer.figures.method_families import n_of
from saesteer.figures.style import PAGE, band, new_figure, styled, with_ends


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The table, in the order of its keys."""
    return tables["persistence"].sort("layer", "method", "stretch")


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer, a line a method."""
    layers = data.partition_by("layer", maintain_order=True)
    titles = data["title"].unique(maintain_order=True).to_list()
    figure = new_figure(PAGE * max(1, 0.7 * len(layers)), 4.6, counts(data))
    panels = figure.subplots(1, max(1, len(layers)), squeeze=False, sharey=True)[0]
    for axes, rows in zip(panels, layers, strict=False):
        for number, title in enumerate(titles):
            own = rows.filter(title=title)
            marker, colour = LOOKS[number % len(LOOKS)]
            band(axes, own["stretch"].to_numpy(), own, with_ends("concept_rating"), colour, title, marker)
            axes.lines[-1].set_linestyle(LAYER_STYLES[number // len(LOOKS)])
        axes.set_title(f"layer {rows['layer'][0]}")
        axes.set_xlabel("stretch of the text")
        axes.set_ylim(0, 2.05)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("concept rating of the stretch (0–2)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, handlelength=4)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts, and what bands are."""
    if data.is_empty():
        return "n = 0 concepts."
    return f"{n_of(data['n'])} concepts, held-out texts at the chosen factors. Bands: {data['confidence'][0]:.0%} bootstrap over concepts."
