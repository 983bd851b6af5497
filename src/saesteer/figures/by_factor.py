"""Success and perplexity against the steering factor, a line for each bin of the output score."""

import numpy as np
import polars as pl

from saesteer.figures.definition import FEW_NOTE, FigureDefinition, Options, Tables, banded, constants
from saesteer.figures.style import PAGE, Axes, Figure, band, dark_viridis, empty_panel, legend_above, new_figure, with_ends

LABELS = {
    "gen_success_20": "GenSuccess@20 (tokens per text)",
    "perplexity": "perplexity of the continuation\nlog axis",
}
TITLES = {"gen_success_20": "success by factor", "perplexity": "perplexity by factor"}
FACTOR_LABELS = {
    "factor": "steering factor (0: unsteered)",
    "multiple": "multiple of each feature's pilot factor\n(0: unsteered)",
}
"""Column of the data that has the factors -> what they are multiples of."""
_MARKERS = "osD^vP*X"


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The table of bins, with the factor as a number; with a pilot as `multiple`."""
    ends = [end for quantity in LABELS for end in with_ends(quantity)[1:]]
    frame = banded(tables["factor_bins"], "n_features", *ends).with_columns(pl.col("factor").cast(pl.Float64), *constants(options))
    return frame.sort("output_score_low", "factor").rename({"factor": "multiple"} if options.has_pilot else {})


def panel(axes: Axes, data: pl.DataFrame, quantity: str) -> None:
    """One quantity against factor, one line per bin."""
    from matplotlib import ticker

    factor = next(name for name in FACTOR_LABELS if name in data.columns and data[name].count())
    bins = data.partition_by("output_score_low", maintain_order=True)
    colours = dark_viridis()(np.linspace(0, 1, len(bins)))
    for number, (members, colour) in enumerate(zip(bins, colours, strict=True)):
        marker = _MARKERS[number % len(_MARKERS)]
        band(axes, members[factor].to_numpy(), members, with_ends(quantity), colour, _label(members), marker)
    axes.set_xlabel(FACTOR_LABELS[factor])
    axes.set_title(TITLES[quantity])
    if data[quantity].null_count() == data.height:
        empty_panel(axes, f"no {quantity}")
    elif quantity == "perplexity":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.set_ylabel(LABELS[quantity])


def _label(members: pl.DataFrame) -> str:
    low, high, n = members.select("output_score_low", "output_score_high", "n_features").row(0)
    return f"{low:g} to {high:g} (n = {n})"


def draw(data: pl.DataFrame) -> Figure:
    """Success on the left, perplexity on the right."""
    figure = new_figure(PAGE, 4.4, counts(data))
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, LABELS, strict=True):
        panel(axes, data, quantity)
    legend_above(figure, panels[0].get_legend_handles_labels()[0], columns=4, title="output score")
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features in all bins, and points without a perplexity."""
    per_bin = data.group_by("output_score_low").agg(pl.col("n_features").first())
    missing = data["perplexity"].null_count()
    left_out = f" At {missing} of {data.height} points every text is empty and has no perplexity." if missing else ""
    n = per_bin["n_features"].sum()
    return f"n = {n} features, all prefixes; bands: {data['confidence'][0]:.0%} intervals over features, {FEW_NOTE}.{left_out}"


FIGURE = FigureDefinition(
    position=60,
    tables=("factor_bins",),
    caption="Mean GenSuccess@20 (left) and geometric mean perplexity by a second model (right) at each steering factor, one line for "
    "each bin of the output score; factors are in the unit of sweep.edit (an addition's: a_max) or, with a pilot, multiples of each "
    "feature's pilot factor. Success that comes before perplexity rises is useful, success after it is repetition.",
    data=data,
    draw=draw,
    counts=counts,
)
