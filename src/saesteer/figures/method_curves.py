"""What turning a method up buys and costs: concept rating against fluency rating, along its factors; small multiples by family."""

from itertools import zip_longest

import numpy as np
import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, n_of
from saesteer.figures.style import BLACK, PAGE, SMALLEST, Axes, Figure, families_in, new_figure, no_ratings
from saesteer.settings.registry import method

N_SHOWN = 4
"""Methods of a family that are shown: those of the highest score."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#C51B7D")
_MARKERS = "os^D"
_LEVELS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_TICKS = (0, 0.5, 1, 1.5, 2)
_COLUMNS = (
    "layer", "method", "title", "family", "factor", "n", "n_texts", "n_missing", "concept_rating", "concept_rating_low",
    "concept_rating_high", "fluency_rating", "fluency_rating_low", "fluency_rating_high", "n_chosen", "method_score", "confidence",
)  # fmt: skip


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The curves of each layer's and family's best methods, factors ascending."""
    curves = tables["method_curves"].select(_COLUMNS).with_columns(pl.col("factor").cast(pl.Float64))
    methods = curves.select("layer", "family", "method", "method_score").unique()
    order = methods.sort("layer", "family", "method_score", "method", descending=[False, False, True, False], nulls_last=True)
    best = order.with_columns(rank=pl.int_range(pl.len()).over("layer", "family")).filter(pl.col("rank") < N_SHOWN)
    ranked = curves.join(best.select("layer", "method", "rank"), on=["layer", "method"], how="inner")
    return ranked.sort("layer", "family", "rank", "factor").drop("rank")


def panel(axes: Axes, rows: pl.DataFrame) -> None:
    """One family: one line per method, one point per factor, each with both intervals; the ends of the line are marked by their factor."""
    _levels(axes)
    for place, curve in enumerate(rows.partition_by("method", maintain_order=True)):
        known = curve.drop_nulls(["concept_rating", "fluency_rating"])
        x, y = known["fluency_rating"].to_numpy(), known["concept_rating"].to_numpy()
        label = f"{curve['title'][0]} ({n_of(curve['n'])})"
        axes.plot(x, y, color=COLOURS[place], marker=_MARKERS[place], label=label, linewidth=1.1, markersize=3.2)
        _intervals(axes, known, COLOURS[place])
        for end in {0, known.height - 1} if known.height else ():
            axes.annotate(
                f"{known['factor'][end]:g}", (x[end], y[end]), (3, 3), textcoords="offset points", fontsize=SMALLEST, color=COLOURS[place]
            )
    axes.set_xticks(_TICKS)
    axes.set_yticks(_TICKS)
    axes.set_xlim(-0.08, 2.12)
    axes.set_ylim(-0.08, 2.12)
    if rows["concept_rating"].null_count() == rows.height:
        no_ratings(axes)
    else:
        axes.legend(loc="upper left", bbox_to_anchor=(-0.1, -0.22), handlelength=1.5)


def _levels(axes: Axes) -> None:
    """Lines of equal harmonic mean of the two ratings."""
    side = np.linspace(0.02, 2.1, 200)
    x, y = np.meshgrid(side, side)
    axes.contour(x, y, 2 * x * y / (x + y), levels=_LEVELS, colors="#DDDDDD", linewidths=0.6, zorder=0)


def _unsteered(axes: Axes, layer: pl.DataFrame) -> None:
    known = layer.filter(method=method("unsteered").key).drop_nulls(["concept_rating", "fluency_rating"])
    axes.plot(known["fluency_rating"], known["concept_rating"], "+", color=BLACK, markersize=8, label="_unsteered")


def _intervals(axes: Axes, known: pl.DataFrame, colour: str) -> None:
    sure = known.drop_nulls(["concept_rating_low", "fluency_rating_low"])
    x, y = sure["fluency_rating"], sure["concept_rating"]
    axes.vlines(x, sure["concept_rating_low"], sure["concept_rating_high"], color=colour, linewidth=0.5, alpha=0.5)
    axes.hlines(y, sure["fluency_rating_low"], sure["fluency_rating_high"], color=colour, linewidth=0.5, alpha=0.5)


def draw(data: pl.DataFrame) -> Figure:
    """Panels by family, a block of rows for each layer."""
    several = data["layer"].n_unique() > 1
    parts = [
        (f"layer {layer['layer'][0]}: {family}" if several else family, layer.filter(family=family))
        for layer in data.partition_by("layer", maintain_order=True)
        for family in families_in(layer)
    ]
    columns = min(2, len(parts))
    n_rows = -(-len(parts) // columns)
    figure = new_figure(PAGE if columns > 1 else PAGE * 0.7, 0.7 + 3.3 * n_rows, counts(data))
    panels = figure.subplots(n_rows, columns, squeeze=False)
    for axes, part in zip_longest(panels.ravel(), parts):
        if part is None:
            axes.set_axis_off()
            continue
        panel(axes, part[1])
        _unsteered(axes, data.filter(layer=part[1]["layer"][0]))
        axes.set_title(part[0])
        axes.set_xlabel("fluency rating (0 to 2)")
    for axes in panels[:, 0]:
        axes.set_ylabel("concept rating (0 to 2)")
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts behind the points, texts without a rating, and what is not shown."""
    return (
        f"{n_of(data['n'])} concepts, those for which the method has something to steer with; all prompts; {data['n_missing'].sum()} of "
        f"{data['n_texts'].sum()} texts unrated. Crosses: {data['confidence'][0]:.0%} intervals over concepts. "
        f"The best {N_SHOWN} methods of a family. Grey lines: equal harmonic mean; +: unsteered."
    )


FIGURE = FigureDefinition(
    position=200,
    tables=("method_curves",),
    caption="Mean concept rating against mean fluency rating at every factor (a number marks the weakest and the strongest), for the best "
    "methods of each family: steering is good where a curve climbs before it turns left.",
    data=data,
    draw=draw,
    counts=counts,
)
