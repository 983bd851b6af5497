"""Success of steering against the filter's threshold, with random removal (P1, arXiv 2505.20063, figures 4, 5 and 10)."""

from collections.abc import Callable

import numpy as np
import polars as pl

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.selection import LAYER_SETS
from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence
from saesteer.figures.style import BLACK, GREY, MAGENTA, PAGE, Axes, Figure, band, empty_panel, legend_above, new_figure, threshold_axis
from saesteer.figures.thresholds import FEW_NOTE, banded, where_something_changes

_COLUMNS = ("layers", "threshold", "n_features", "n_kept", "mean", "low", "high", "random_mean", "random_low", "random_high")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The curves of all and of late layers under the rule shown; the headline's threshold is marked."""
    headline = options.selection.headline_threshold
    curves = tables["selection"].filter(rule=options.rule, measure="gen_success_20").select(*_COLUMNS, "p_within_layers")
    curves = where_something_changes(curves, "layers", always=headline)
    curves = banded(curves, "n_kept", "low", "high", "random_low", "random_high")
    is_headline = (pl.col("threshold") == headline).alias("is_headline")
    rule = pl.lit(options.rule).alias("rule")
    return curves.with_columns(first_layer(options), is_headline, rule, confidence(options)).sort("layers", "threshold")


def first_layer(options: Options) -> pl.Expr:
    """The first layer of a row's set."""
    return pl.when(layers="late").then(options.selection.late_layers_from).otherwise(0).alias("first_layer")


def panel(axes: Axes, curve: pl.DataFrame, title: str) -> None:
    """One set of layers: the kept features' mean and the random band against threshold."""
    x = np.arange(curve.height)
    band(axes, x, curve, ("random_mean", "random_low", "random_high"), GREY, "as many removed at random", "None")
    band(axes, x, curve, ("mean", "low", "high"), MAGENTA, "kept by output score", "o")
    if curve["mean"].is_null().all():
        empty_panel(axes, "no features")
    for position in np.flatnonzero(curve["is_headline"].to_numpy()):
        axes.axvline(float(position), color=BLACK, linewidth=0.8, linestyle=":", zorder=1, label="headline threshold")
    threshold_axis(axes, curve["threshold"].to_list(), curve["n_kept"].to_list(), title)
    axes.set_ylabel(f"held-out GenSuccess@20 (tokens),\nfactors by {RULES[curve['rule'][0]]}")


def layers_title(curve: pl.DataFrame) -> str:
    """What a panel calls its set of layers."""
    return "all layers" if curve["layers"][0] == "all" else f"late layers (from {curve['first_layer'][0]})"


def draw(data: pl.DataFrame) -> Figure:
    """All layers on the left, late ones on the right."""
    figure = by_layer_set(data, panel, counts(data), legend_columns=3)
    figure.axes[0].set_ylim(bottom=0)
    return figure


def by_layer_set(data: pl.DataFrame, panel: Callable[[Axes, pl.DataFrame, str], None], note: str, legend_columns: int) -> Figure:
    """A panel a set of layers, with one vertical axis and one legend."""
    figure = new_figure(PAGE, 4.0, note)
    panels = figure.subplots(1, len(LAYER_SETS), sharey=True)
    for axes, layers in zip(panels, LAYER_SETS, strict=True):
        curve = data.filter(layers=layers)
        panel(axes, curve, layers_title(curve))
    panels[1].set_ylabel("")
    legend_above(figure, *panels[0].get_legend_handles_labels(), columns=legend_columns)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features, kept ones and the test within layers, for both sets of layers."""
    sentences = []
    for layers in LAYER_SETS:
        curve = data.filter(layers=layers)
        headline = curve.filter("is_headline").row(0, named=True)
        p_value = headline["p_within_layers"]
        test = "no test within layers" if p_value is None else f"p = {p_value:.4f} within layers"
        sentences.append(
            f"{layers_title(curve)}: n = {headline['n_features']}, {headline['n_kept']} kept at {headline['threshold']:g}, {test}"
        )
    level = f"{data['confidence'][0]:.0%}"
    return f"{'; '.join(sentences)}. Bands: {level} intervals over features; {level} of random removals; {FEW_NOTE}."


FIGURE = FigureDefinition(
    position=30,
    tables=("selection",),
    caption="Mean GenSuccess@20, top logit-lens tokens per text, on held-out prefixes of the features kept at each threshold of the "
    "output score (magenta), and when as many features are removed at random (grey); a filter works where magenta leaves the grey band.",
    data=data,
    draw=draw,
    counts=counts,
)
