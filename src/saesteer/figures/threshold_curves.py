"""What each threshold of the output score gains in each layer, and what the best one gains where it was not chosen."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import DARK_VIRIDIS, GREY, WIDE, band, new_figure, styled, threshold_label, with_ends

_TITLES = {"gen_success_20": "GenSuccess@20", "judge_score": "judge score"}
_MARKERS = "osD^vP*X"


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The curves, then the trials of chosen thresholds."""
    curves = tables["threshold_curves"].sort("measure", "layer", "threshold")
    trials = tables["threshold_transfer"].sort("measure", "chosen_on", "tried_on")
    return pl.concat([curves, trials], how="diagonal").with_columns(confidence(options))


def curves(axes: Axes, rows: pl.DataFrame, title: str) -> None:
    """A line a layer."""
    thresholds = rows["threshold"].unique().sort().to_list()
    layers = rows.partition_by("layer", maintain_order=True)
    for number, own in enumerate(layers):
        colour = DARK_VIRIDIS(number / max(1, len(layers) - 1))
        places = np.array([thresholds.index(threshold) for threshold in own["threshold"]])
        band(axes, places, own, with_ends("gain"), colour, f"layer {own['layer'][0]}", _MARKERS[number % len(_MARKERS)])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(range(len(thresholds)), [threshold_label(one) for one in thresholds], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_xlabel("features with output score ≥ this are kept")
    axes.set_ylabel(f"{title}:\nkept less all")
    if layers:
        axes.legend(fontsize=7)


@styled
def draw(data: pl.DataFrame) -> Figure:
    """Curves above, trials below, a column a measure."""
    n_trials = data.filter(pl.col("chosen_on").is_not_null()).group_by("measure").len()["len"].max()
    figure = new_figure(WIDE, 5.2 + 0.25 * int(str(n_trials or 1)), counts(data))
    panels = figure.subplots(2, len(_TITLES), height_ratios=(3, 1 + 0.25 * int(str(n_trials or 1))))
    for place, (measure, title) in enumerate(_TITLES.items()):
        rows = data.filter(measure=measure)
        curves(panels[0][place], rows.filter(pl.col("layer").is_not_null()), title)
        trials = rows.filter(pl.col("chosen_on").is_not_null())
        heights = pl.Series(range(trials.height), dtype=pl.Float64)
        dots(panels[1][place], trials, "gain", heights + dodged(0, 2, 0.2), 0)
        dots(panels[1][place], trials.select(gain="gain_chosen"), "gain", heights + dodged(1, 2, 0.2), 0, hollow=True)
        shown = trials.select("chosen_on", "tried_on", "threshold").iter_rows()
        names = [f"{chosen} → {tried}: {threshold:.1g}" for chosen, tried, threshold in shown]
        named_rows(panels[1][place], names, f"{title}: kept less all", zero=0.0)
        panels[1][place].set_ylabel("chosen → tried: threshold")
    legend(figure, {"tried on other features": 0, "where it was chosen": 0}, hollow=("where it was chosen",))
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features of a layer, and what bars are."""
    n = data["n"].drop_nulls()
    if n.is_empty():
        return "n = 0 features."
    level = f"{data['confidence'][0]:.0%}"
    bars = f"bands, and bars between layers: {level} bootstrap over features; bars of halves: {level} of halvings"
    return f"{n_of(n)} features of a layer; {bars}."
