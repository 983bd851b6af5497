"""The output score at other factors and prompts, against the experiment's own setting and as a rule that picks."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import LOOKS, dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import WIDE, band, empty_panel, log_axis, new_figure, styled, with_ends

_LINES = {"rho": "rank correlation with the own setting", "rho_judge": "with the judge score", "rho_success": "with GenSuccess@20"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table, the own setting marked in it, factors as numbers."""
    rows = tables["setting_agreement"].with_columns(confidence(options), pl.col("factor").cast(pl.Float64))
    own = rows.filter(pl.col("is_own")).select("layer", own_prompt="prompt", own_factor="factor")
    return rows.join(own, on="layer", how="left").sort("layer", "prompt", "factor")


def by_factor(axes: Axes, rows: pl.DataFrame) -> None:
    """One layer at the own prompt."""
    for number, name in enumerate(_LINES):
        marker, colour = LOOKS[number]
        band(axes, rows["factor"].to_numpy(), rows, with_ends(name), colour, name, marker)
    log_axis(axes, rows["factor"])
    axes.set_xlabel("factor of the output score (multiples of a_max)")


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A row a layer: factors on the left, prompts on the right."""
    layers = data.partition_by("layer", maintain_order=True)
    figure = new_figure(WIDE, 1.2 + 2.6 * max(1, len(layers)), counts(data))
    panels = figure.subplots(max(1, len(layers)), 2, squeeze=False)
    for (left, right), rows in zip(panels, layers, strict=False):
        by_factor(left, rows.filter(pl.col("prompt") == pl.col("own_prompt")))
        left.set_ylabel(f"layer {rows['layer'][0]}\nrank correlation")
        prompts = rows.filter((pl.col("factor") == pl.col("own_factor")) & (pl.col("prompt") != pl.col("own_prompt")))
        places = pl.Series(range(prompts.height), dtype=pl.Float64)
        dots(right, prompts, "rho", places + dodged(0, 2, 0.3), 0)
        dots(right, prompts, "jaccard", places + dodged(1, 2, 0.3), 3)
        named_rows(right, prompts["prompt"].to_list(), "agreement with the own prompt")
    if not layers:
        empty_panel(panels[0][0], "no feature")
    for axes in panels[0] if not layers else ():
        axes.set_xlabel("setting")
        axes.set_ylabel("agreement")
    legend(figure, {**{title: number for number, title in enumerate(_LINES.values())}, "Jaccard of the features kept": 3})
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features, and what bands are."""
    if data.is_empty():
        return "n = 0 features."
    own = data["own_prompt"][0]
    return (
        f"{n_of(data['n'])} features of a layer; own prompt: {own!r}. Bands and bars: {data['confidence'][0]:.0%} bootstrap over features."
    )
