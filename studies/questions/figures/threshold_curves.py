"""What each threshold of the output score gains in each layer, and what the best one gains where it was not chosen."""

import numpy as np
import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, n_of
from saesteer.figures.style import GREY, PAGE, Axes, Figure, band, dark_viridis, new_figure, threshold_label, with_ends
from saesteer.figures.thresholds import FEW_NOTE, banded, where_something_changes
from studies.questions.figures.dots import DotPanel, Mark, draw_dots, legend, points

_TITLES = {"net_gen_success_20": "net success", "judge_score": "judge score"}
_MARKERS = "osD^vP*X"
_TRIAL_MARKS = {"tried on other features": Mark(0), "where it was chosen": Mark(0, hollow=True)}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The curves, then the trials of chosen thresholds."""
    curves = where_something_changes(tables["threshold_curves"], "measure", "layer").sort("measure", "layer", "threshold")
    curves = banded(curves, "n_kept", *with_ends("gain")[1:])
    trials = tables["threshold_transfer"].sort("measure", "chosen_on", "tried_on")
    return pl.concat([curves, trials], how="diagonal").with_columns(confidence(options))


def curves(axes: Axes, rows: pl.DataFrame, title: str) -> None:
    """A line a layer."""
    thresholds = rows["threshold"].unique().sort().to_list()
    layers = rows.partition_by("layer", maintain_order=True)
    for number, layer_rows in enumerate(layers):
        colour = dark_viridis()(number / max(1, len(layers) - 1))
        places = np.array([thresholds.index(threshold) for threshold in layer_rows["threshold"]])
        band(axes, places, layer_rows, with_ends("gain"), colour, f"layer {layer_rows['layer'][0]}", _MARKERS[number % len(_MARKERS)])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set_xticks(
        range(len(thresholds)), [threshold_label(threshold) for threshold in thresholds], rotation=60, ha="right", rotation_mode="anchor"
    )
    axes.set_xlabel("output score ≥")
    axes.set_ylabel(f"{title}:\nkept less all")
    axes.set_title("gain by threshold")
    if layers:
        axes.legend()


def draw(data: pl.DataFrame) -> Figure:
    """Curves above, trials below, a column a measure."""
    n_trials = max(data.drop_nulls("chosen_on")["measure"].value_counts()["count"], default=1)
    figure = new_figure(PAGE, 5.2 + 0.25 * n_trials, counts(data))
    panels = figure.subplots(2, len(_TITLES), height_ratios=(3, 1 + 0.25 * n_trials))
    for place, (measure, title) in enumerate(_TITLES.items()):
        rows = data.filter(measure=measure)
        curves(panels[0][place], rows.drop_nulls("layer"), title)
        draw_dots(panels[1][place], trials(rows.drop_nulls("chosen_on"), title), _TRIAL_MARKS, spread=0.2)
        panels[1][place].set_ylabel("chosen → tried")
    legend(figure, _TRIAL_MARKS)
    return figure


def trials(rows: pl.DataFrame, title: str) -> DotPanel:
    """A row a threshold: its gain where it was chosen, and elsewhere."""
    shown = rows.select("chosen_on", "tried_on", "threshold").iter_rows()
    names = [f"{chosen} → {tried}: {threshold:.1g}" for chosen, tried, threshold in shown]
    named = rows.with_columns(name=pl.Series(names, dtype=pl.String))
    columns = dict(zip(("gain", "gain_chosen"), _TRIAL_MARKS, strict=True))
    gains = pl.concat(points(named, column, row=pl.col("name"), mark=mark) for column, mark in columns.items())
    return DotPanel(gains, names, f"{title}: kept less all", title="chosen elsewhere", zero=0.0)


def counts(data: pl.DataFrame) -> str:
    """Features of a layer, and what bars are."""
    n = data["n"].drop_nulls()
    if n.is_empty():
        return "n = 0 features."
    level = f"{data['confidence'][0]:.0%}"
    bars = f"bands, and bars between layers: {level} intervals over features; bars of halves: {level} of halvings"
    return f"{n_of(n)} features of a layer; {bars}; {FEW_NOTE}."


FIGURE = FigureDefinition(
    position=130,
    tables=("threshold_curves", "threshold_transfer"),
    caption="Mean of the features that each threshold of the output score keeps, less the mean of all, in each layer; and the threshold "
    "that is best on some features, where it was chosen (hollow) and on features that it was not chosen on (filled).",
    data=data,
    draw=draw,
    counts=counts,
)
