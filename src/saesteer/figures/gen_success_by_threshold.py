"""Success of steering against the filter's threshold, with random removal (P1, arXiv 2505.20063, figures 4, 5 and 10)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.selection import LAYER_SETS
from saesteer.figures.definition import (
    FEW_NOTE,
    FigureDefinition,
    Options,
    Tables,
    banded,
    constants,
    first_layer,
    held_out,
    where_something_changes,
)
from saesteer.figures.style import BLACK, BLUE, GREY, MAGENTA, Axes, Figure, band, by_layer_set, empty_panel, layers_title, threshold_axis

LABELS = {"net_gen_success_20": "net success", "gen_success_20": "GenSuccess@20"}
"""Net of the same prompts' unsteered texts, and P1's own."""
_COLUMNS = ("measure", "layers", "threshold", "n_features", "n_kept", "mean", "low", "high", "random_mean", "random_low", "random_high")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The curves of both successes, of all and of late layers, under the rule shown; the headline's threshold is marked."""
    headline = options.selection.headline_threshold
    curves = tables["selection"].filter(pl.col("measure").is_in([*LABELS]), rule=options.rule).select(*_COLUMNS, "p_within_layers")
    curves = where_something_changes(curves, "measure", "layers", always=headline)
    curves = banded(curves, "n_kept", "low", "high", "random_low", "random_high")
    is_headline = (pl.col("threshold") == headline).alias("is_headline")
    rule = pl.lit(options.rule).alias("rule")
    curves = curves.with_columns(first_layer(options), is_headline, rule, *constants(options))
    return curves.sort("measure", "layers", "threshold", descending=[True, False, False])


def panel(axes: Axes, curve: pl.DataFrame, title: str) -> None:
    """One success and set of layers: the kept features' mean and the random band against threshold."""
    x = np.arange(curve.height)
    band(axes, x, curve, ("random_mean", "random_low", "random_high"), GREY, "as many removed at random", "None")
    band(axes, x, curve, ("mean", "low", "high"), MAGENTA, "kept by output score", "o")
    if curve["mean"].is_null().all():
        empty_panel(axes, "no features" if curve["measure"][0] == "gen_success_20" else "no unsteered texts (factor 0)")
    for position in np.flatnonzero(curve["is_headline"].to_numpy()):
        axes.axvline(float(position), color=BLACK, linewidth=0.8, linestyle=":", zorder=1, label="headline threshold")
    threshold_axis(axes, curve["threshold"].to_list(), curve["n_kept"].to_list(), title)
    axes.set_ylabel(f"{held_out(curve)} {LABELS[curve['measure'][0]]} (tokens),\nfactors by {RULES[curve['rule'][0]]}")


def beside(axes: Axes, curve: pl.DataFrame) -> None:
    """P1's own success of the kept features, in a panel of the net one."""
    band(axes, np.arange(curve.height), curve, ("mean", "low", "high"), BLUE, "kept, GenSuccess@20 (P1)", "s")


def draw(data: pl.DataFrame) -> Figure:
    """All layers on the left, late ones on the right; net success above, P1's own below."""
    rows = [data.filter(measure=measure) for measure in LABELS]
    figure = by_layer_set(rows, panel, counts(data), legend_columns=3)
    for axes, curves in zip(figure.axes[:: len(LAYER_SETS)], rows, strict=True):
        show_zero(axes, curves)
    return figure


def show_zero(axes: Axes, curves: pl.DataFrame) -> None:
    """An axis of successes from 0, or from where the lowest interval ends."""
    axes.set_ylim(bottom=min([0.0, *curves["low"].drop_nulls()]))


def counts(data: pl.DataFrame) -> str:
    """Features, kept ones and the tests within layers, for both sets of layers."""
    sentences = []
    for layers in LAYER_SETS:
        curve = data.filter(layers=layers)
        headlines = {row["measure"]: row for row in curve.filter("is_headline").iter_rows(named=True)}
        tests = ", ".join(f"{_p(headlines[measure])} ({label})" for measure, label in LABELS.items())
        of_p1 = headlines["gen_success_20"]
        sentences.append(f"{layers_title(curve)}: n = {of_p1['n_features']}, {of_p1['n_kept']} kept at {of_p1['threshold']:g}, {tests}")
    level = f"{data['confidence'][0]:.0%}"
    return f"{'; '.join(sentences)}. Bands: {level} intervals over features; {level} of random removals; {FEW_NOTE}."


def _p(headline: Mapping[str, Any]) -> str:
    p_value = headline["p_within_layers"]
    return "no test within layers" if p_value is None else f"p = {p_value:.4f} within layers"


FIGURE = FigureDefinition(
    position=30,
    tables=("selection",),
    caption="Mean success, top logit-lens tokens per text, of the features kept at each threshold of the output score "
    "(magenta), and when as many features are removed at random (grey); a filter works where magenta leaves the grey band. Above, net of "
    "the same prompts' unsteered texts; below, GenSuccess@20 as P1 has it, which a filter for common tokens raises too.",
    data=data,
    draw=draw,
    counts=counts,
)
