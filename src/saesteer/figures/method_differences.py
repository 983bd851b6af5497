"""Which methods can be told apart: every pair's mean difference, whether its interval leaves out 0, and the sign test of all pairs."""

from typing import Any

import numpy as np
import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, n_of
from saesteer.figures.style import BLACK, GREY, SMALLEST, Axes, Figure, empty_panel, legend_above, legend_entry, new_figure, part_of_colours

_CELL = 0.17  # inches; a figure of many methods is wider than a page, where its text is smaller than the others'
_COLUMNS = ("n", "mean", "low", "high", "p_all_pairs")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """Both orders of every pair, with titles, methods ordered by their score."""
    methods = tables["methods"].sort("layer", "score", "method", descending=[False, True, False], nulls_last=True)
    order = methods.select("layer", "method", "title", "confidence", rank=pl.int_range(pl.len()).over("layer"))
    once = tables["method_differences"].select("layer", "method", "other", *_COLUMNS)
    turned = once.select(
        "layer", "n", -pl.col("mean"), "p_all_pairs", method="other", other="method", low=-pl.col("high"), high=-pl.col("low")
    ).select(once.columns)
    both = pl.concat([once, turned]).join(order, on=["layer", "method"])
    named = both.join(order.select("layer", other="method", other_title="title", other_rank="rank"), on=["layer", "other"])
    return named.select("layer", "method", "title", "rank", "other", "other_title", "other_rank", *_COLUMNS, "confidence").sort(
        "layer", "rank", "other_rank"
    )


def panel(axes: Axes, rows: pl.DataFrame, limit: float) -> Any:
    """One layer: row minus column; a dot where the pair's own interval leaves out 0, a ring where all pairs together tell it apart."""
    titles = dict(rows.select("rank", "title").unique().sort("rank").iter_rows())
    n = len(titles)
    matrix = np.full((n, n), np.nan)
    places = rows.select("rank", "other_rank").to_numpy()
    matrix[places[:, 0], places[:, 1]] = rows["mean"].to_numpy()
    edges = np.arange(n + 1) - 0.5
    mesh = axes.pcolormesh(edges, edges, matrix, cmap=part_of_colours("PuOr_r", 0.2, 0.8), vmin=-limit, vmax=limit)
    for (name, sure), (marker, face, size) in zip(_sure(rows).items(), ((".", BLACK, 2.5), ("o", "none", 5)), strict=True):
        axes.plot(
            sure["other_rank"], sure["rank"], marker, color=BLACK, markerfacecolor=face, markersize=size, markeredgewidth=0.6, label=name
        )
    axes.set_xticks(range(n), list(titles.values()), rotation=90, fontsize=SMALLEST)
    axes.set_yticks(range(n), list(titles.values()), fontsize=SMALLEST)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xlabel("minus this method")
    axes.set_ylabel("this method")
    if rows["mean"].null_count() == rows.height:
        empty_panel(axes, "no text could be rated")
    return mesh


def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer, one below the other, one scale of colours."""
    layers = data.partition_by("layer", maintain_order=True)
    side = 2.6 + _CELL * max((rows["rank"].n_unique() for rows in layers), default=0)
    figure = new_figure(max(5.5, side + 0.9), max(3.5, (side + 0.5) * max(len(layers), 1)), counts(data))
    panels = figure.subplots(max(len(layers), 1), 1, squeeze=False)[:, 0]
    limit = float(np.abs(data["mean"].drop_nulls().to_numpy()).max(initial=0.0)) or 1.0
    if not layers:
        empty_panel(panels[0], "one method: nothing to compare")
        panels[0].set(title="differences of methods", xlabel="minus this method", ylabel="this method")
    for axes, rows in zip(panels, layers, strict=False):
        mesh = panel(axes, rows, limit)
        axes.set_title(f"layer {rows['layer'][0]}")
        figure.colorbar(mesh, ax=axes, label="difference of mean scores", shrink=0.6)
    dot = legend_entry("own interval leaves out 0", BLACK, marker=".", markersize=3)
    ring = legend_entry("told apart among all pairs", BLACK, marker="o", markerfacecolor="none", markersize=5)
    legend_above(figure, [dot, ring], columns=2, labelcolor=GREY)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Pairs, concepts behind them, and how many can be told apart."""
    pairs = data.filter(pl.col("rank") < pl.col("other_rank"))
    if not pairs.height:
        return "n = 0 pairs."
    plain, together = (sure.height for sure in _sure(pairs).values())
    return (
        f"{n_of(pairs['n'])} concepts; of {pairs.height} pairs {plain} are told apart by their own {pairs['confidence'][0]:.0%} interval, "
        f"{together} by the sign test of all pairs."
    )


def _sure(pairs: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Pairs whose own interval leaves out 0, and those that are told apart among all."""
    is_apart = {"low": (pl.col("low") > 0) | (pl.col("high") < 0), "p_all_pairs": pl.col("p_all_pairs") < 1 - pl.col("confidence")}
    return {name: pairs.filter(which) for name, which in is_apart.items()}


FIGURE = FigureDefinition(
    position=210,
    tables=("methods", "method_differences"),
    caption="Mean over concepts of the row's score minus the column's, best methods first, paired by concept.",
    data=data,
    draw=draw,
    counts=counts,
)
