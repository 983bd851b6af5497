"""Every steering method's score under limits on its damage to ordinary text, against its score without a limit."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, n_of
from saesteer.figures.style import GREY, PAGE, Axes, Figure, empty_panel, family_legend, method_point, new_figure

_RHO = ("rank_correlation", "rank_correlation_low", "rank_correlation_high")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The table, the best under each limit first."""
    shown = tables["method_equal_cost"].drop_nulls(["score", "unlimited_score"])
    return shown.sort("layer", "limit", pl.col("score"), "method", descending=[False, False, True, False])


def panel(axes: Axes, rows: pl.DataFrame) -> None:
    """One layer and limit: one point per method, below the diagonal where it scores less than without a limit."""
    for row in rows.iter_rows(named=True):
        method_point(axes, row, "unlimited_score", "score", size=4, alpha=0.4)
    top = max(value for name in ("score_high", "unlimited_score_high", "score", "unlimited_score") for value in rows[name].drop_nulls())
    axes.plot([0, top], [0, top], color=GREY, linewidth=0.8, linestyle="--", zorder=0, label="no limit")


def draw(data: pl.DataFrame) -> Figure:
    """One row of panels per layer, one panel per limit."""
    layers, limits = (data[name].unique().sort().to_list() for name in ("layer", "limit"))
    figure = new_figure(PAGE, 1.5 + 2.1 * max(1, len(layers)), counts(data))
    panels = figure.subplots(max(1, len(layers)), max(1, len(limits)), squeeze=False, sharex=True, sharey=True)
    for row, layer in zip(panels, layers, strict=False):
        row[0].set_ylabel(f"layer {layer}, under the limit")
        for axes, limit in zip(row, limits, strict=True):
            panel(axes, data.filter(layer=layer, limit=limit))
            axes.set_title(f"≤ {limit:g} nats")
            axes.set_xlabel("without a limit")
    if not layers:
        empty_panel(panels[0, 0], "no method has a score")
        panels[0, 0].set_title("scores at equal cost")
        return figure
    family_legend(figure, data, "as without a limit", GREY, linestyle="--", linewidth=0.8)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts; and of each panel the rank correlation of the two orders, and the best method."""
    if data.is_empty():
        return "n = 0 concepts"
    level = format(data["confidence"][0], ".0%")
    lines = [
        f"{n_of(data['n'])} concepts. Bars: {level} intervals over concepts. ρ: rank correlation of the two orders, {level} over methods."
    ]
    for of_layer in data.partition_by("layer", maintain_order=True):
        best = of_layer.unique("limit", keep="first", maintain_order=True)
        of_limits = (f"{limit:g}: {_shown(*rho)}, {title}" for limit, title, *rho in best.select("limit", "title", *_RHO).iter_rows())
        lines.append(f"Layer {of_layer['layer'][0]}, ρ and the best method: {'; '.join(of_limits)}.")
    return "\n".join(lines)


def _shown(middle: float | None, low: float | None, high: float | None) -> str:
    if middle is None:
        return "unknown"
    return f"{middle:.2f}" if low is None or high is None else f"{middle:.2f} [{low:.2f}, {high:.2f}]"


FIGURE = FigureDefinition(
    position=235,
    tables=("method_equal_cost",),
    caption="Score of every method at its strongest under a limit on its damage (the divergence of the next-token distribution on "
    "ordinary text from the unsteered one), against its score without a limit: below the dashed line it scores less under the limit.",
    data=data,
    draw=draw,
    counts=counts,
)
