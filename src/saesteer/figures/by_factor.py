"""Success and perplexity against the steering factor, a line for each bin of the output score."""

import numpy as np
import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence
from saesteer.figures.style import WIDE, Axes, Figure, band, dark_viridis, empty_panel, new_figure, with_ends

LABELS = {
    "gen_success_20": "GenSuccess@20\n(logit-lens tokens per text)",
    "perplexity": "perplexity of the continuation\n(second model)",
}
_MARKERS = "osD^vP*X"
_SUCCESS_TICKS = (0, 0.25, 0.5, 0.75, 1, 2, 3, 5, 10, 20)
_TICK_GAP = 0.085  # least distance of two tick labels, as a share of the axis


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The table of bins, with the factor as a number."""
    frame = tables["factor_bins"].with_columns(pl.col("factor").cast(pl.Float64), confidence(options))
    return frame.sort("output_score_low", "factor")


def panel(axes: Axes, data: pl.DataFrame, quantity: str) -> None:
    """One quantity against factor, a line a bin."""
    from matplotlib import ticker

    bins = data.partition_by("output_score_low", maintain_order=True)
    colours = dark_viridis()(np.linspace(0, 1, len(bins)))
    for number, (members, colour) in enumerate(zip(bins, colours, strict=True)):
        marker = _MARKERS[number % len(_MARKERS)]
        band(axes, members["factor"].to_numpy(), members, with_ends(quantity), colour, _label(members), marker)
    _factor_axis(axes, data["factor"].unique().sort().to_list())
    if data[quantity].null_count() == data.height:
        empty_panel(axes, f"no {quantity}")
    elif quantity == "perplexity":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=-0.03)
        axes.set_yticks([tick for tick in _SUCCESS_TICKS if tick <= axes.get_ylim()[1]])
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.set_ylabel(LABELS[quantity] + (", log axis" if quantity == "perplexity" else ", log axis above 1"))


def _label(members: pl.DataFrame) -> str:
    low, high, n = members.select("output_score_low", "output_score_high", "n_features").row(0)
    return f"{low:g} to {high:g} (n = {n})"


def _factor_axis(axes: Axes, factors: list[float]) -> None:
    """Linear up to the smallest positive factor, logarithmic above; factors too close to their neighbour are not labelled."""
    from matplotlib.ticker import NullLocator

    positive = [factor for factor in factors if factor > 0]
    axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
    first, last = axes.transScale.transform([(factors[0], 1), (factors[-1], 1)])[:, 0]
    ticks, reached = [], -np.inf
    for factor, place in zip(factors, axes.transScale.transform([(factor, 1) for factor in factors])[:, 0], strict=True):
        if (place - reached) / max(last - first, 1e-9) >= _TICK_GAP:
            ticks.append(factor)
            reached = place
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("steering factor (multiples of a_max; 0 = unsteered)")


def draw(data: pl.DataFrame) -> Figure:
    """Success on the left, perplexity on the right."""
    figure = new_figure(WIDE, 4.2, counts(data))
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, LABELS, strict=True):
        panel(axes, data, quantity)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, title="output score")
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features in all bins, and points without a perplexity."""
    per_bin = data.group_by("output_score_low").agg(pl.col("n_features").first())
    missing = data["perplexity"].null_count()
    left_out = f" At {missing} of {data.height} points every text is empty and has no perplexity." if missing else ""
    n = per_bin["n_features"].sum()
    return f"n = {n} features, all prefixes; bands: {data['confidence'][0]:.0%} intervals over features.{left_out}"


FIGURE = FigureDefinition(
    position=60,
    tables=("factor_bins",),
    caption="Mean GenSuccess@20 (left) and geometric mean perplexity (right) at each steering factor, one line for each bin of the output "
    "score: success that comes before perplexity rises is useful, success after it is repetition.",
    data=data,
    draw=draw,
    counts=counts,
)
