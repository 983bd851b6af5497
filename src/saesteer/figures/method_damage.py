"""Every method's score against what steering adds to the loss on ordinary text, with the frontier of those that no other beats."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, held_out, in_sample, n_of
from saesteer.figures.style import BLACK, GREY, PAGE, SMALLEST, Axes, Figure, empty_panel, family_legend, method_point, new_figure

_COLUMNS = (
    "layer", "method", "title", "family", "n", "score", "score_low", "score_high", "loss_rise", "loss_rise_low", "loss_rise_high",
    "unsteered_loss", "confidence",
)  # fmt: skip


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """What of the table is drawn, least damage first, and whether a method lies on the frontier."""
    shown = tables["method_damage"].select(*_COLUMNS, *in_sample(options)).drop_nulls(["score", "loss_rise"])
    shown = shown.sort("layer", "loss_rise", pl.col("score"), "method", descending=[False, False, True, False])
    above = pl.col("score").cum_max().shift(1).over("layer")
    return shown.with_columns(frontier=above.is_null() | (pl.col("score") > above))


def panel(axes: Axes, rows: pl.DataFrame) -> None:
    """One layer's methods; those on the frontier by name."""
    for row in rows.iter_rows(named=True):
        method_point(axes, row, "loss_rise", "score", size=5, alpha=0.5)
    best = rows.filter("frontier")
    axes.step(best["loss_rise"], best["score"], where="post", color=BLACK, linewidth=0.9, linestyle=":", label="frontier", zorder=1)
    for row in best.iter_rows(named=True):
        axes.annotate(row["title"], (row["loss_rise"], row["score"]), (4, 4), textcoords="offset points", fontsize=SMALLEST)
    axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
    axes.set_xlabel("added loss on ordinary text (nats a token)")
    axes.set_ylabel(f"{held_out(rows)} score, mean over concepts")
    if rows.is_empty():
        empty_panel(axes, "no method has a score")


def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer, one below the other."""
    layers = data.partition_by("layer", maintain_order=True)
    figure = new_figure(PAGE, 1 + 3.6 * max(1, len(layers)), counts(data))
    panels = figure.subplots(max(1, len(layers)), 1, squeeze=False, sharex=True)[:, 0]
    for axes, rows in zip(panels, layers, strict=False):
        panel(axes, rows)
        axes.set_title(f"layer {rows['layer'][0]}")
    if not layers:
        panel(panels[0], data)
        panels[0].set_title("score and damage")
        return figure
    family_legend(figure, data, "none better at less damage", BLACK, linestyle=":", linewidth=0.9)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts, and the loss that is added to."""
    if data.is_empty():
        return "n = 0 concepts"
    losses = ", ".join(f"{loss:.2f}" for loss in data["unsteered_loss"].unique(maintain_order=True).drop_nulls())
    return f"{n_of(data['n'])} concepts; unsteered loss {losses} nats a token. Bars: {data['confidence'][0]:.0%} intervals over concepts."


FIGURE = FigureDefinition(
    position=230,
    tables=("method_damage",),
    caption="Score of every method against what steering at the chosen factors adds to the loss on ordinary text, which is not "
    "about the concept: a method is worth its damage where no other lies above it and to its left (the line).",
    data=data,
    draw=draw,
    counts=counts,
)
