"""The figure of the findings: what P1's filter gains on the two public models, and how well each way of steering does there."""

from pathlib import Path

import numpy as np
import polars as pl

from saesteer.analysis.tables import SELECTION
from saesteer.figures.definition import FEW_NOTE, SMALL, banded
from saesteer.figures.style import BLACK, GREY, MAGENTA, PAGE, Axes, Figure, Look, band, new_figure, styled, threshold_axis
from saesteer.methods.compare.tables import METHODS_TABLE
from studies.pages.results import MODELS, REGISTERED, comparison, metrics, stored

MARKS = dict(zip(MODELS.values(), (Look(BLACK, "o"), Look(MAGENTA, "D")), strict=True))
REPORTED = (2.0, 3.0)
"""P1's gain on Gemma-2 2B and 9B, not net of unsteered texts."""
_CURVE, _WITHIN, _METHODS = "threshold", "within layers", "methods"


def data(root: Path) -> pl.DataFrame:
    """Rows of both panels, by `panel` and `model`, of what was run. The curves are multiples of the mean of all features; `within layers`:
    the same gain of features compared with those of their own layer, at the experiment's threshold."""
    parts = []
    for experiment, model in MODELS.items():
        selection, methods = stored(root, experiment, SELECTION.name), stored(root, comparison(experiment), METHODS_TABLE.name)
        panels = dict[str, pl.DataFrame]()
        if selection is not None:
            numbers = metrics(root, experiment)
            gain = numbers["filter"][REGISTERED]["all"]["net"]["within_layers"]
            within = {"threshold": numbers["threshold"], "times_mean": gain["value"], "times_low": gain["low"], "times_high": gain["high"]}
            panels |= {_CURVE: gains(selection.filter(rule=REGISTERED)), _WITHIN: pl.DataFrame([within])}
        if methods is not None:
            panels[_METHODS] = methods
        parts += [rows.with_columns(panel=pl.lit(name), model=pl.lit(model)) for name, rows in panels.items()]
    return pl.concat(parts, how="diagonal_relaxed")


def gains(selection: pl.DataFrame) -> pl.DataFrame:
    """SELECTION rows of net success over all layers, by rule and threshold, with its mean and interval as multiples of the mean of all
    features (times_mean, times_low, times_high)."""
    curves = selection.filter(measure="net_gen_success_20", layers="all")
    whole = pl.col("mean").filter(threshold=0.0).first().over("rule")
    times = [(pl.col(name) / whole).alias(f"times_{name}") for name in ("mean", "low", "high")]
    return banded(curves.with_columns(times).filter(pl.col("threshold") >= SMALL), "n_kept", "times_low", "times_high")


@styled
def draw(rows: pl.DataFrame) -> Figure:
    """The threshold curves, and where methods were compared these, best first by the mean of both models."""
    curves, methods = rows.filter(panel=_CURVE), rows.filter(panel=_METHODS)
    sizes = ", ".join(f"{int(of['n_features'][0])} ({model})" for (model,), of in curves.group_by("model", maintain_order=True))
    note = f"n = {sizes} features; above the curves, how many are kept of all models."
    if methods.height:
        note += f" Right: {int(methods['n'].to_numpy().max())} concepts."
    figure = new_figure(PAGE, 4.4, f"{note} Bands and bars: 95% intervals; {FEW_NOTE}.")
    left, *others = figure.subplots(1, 2 if methods.height else 1, squeeze=False, width_ratios=(1.1, 1) if methods.height else None)[0]
    _draw_curves(left, curves, rows.filter(panel=_WITHIN))
    for right in others:
        _draw_methods(right, methods)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)  # models have the same marks at the right
    return figure


def _draw_methods(axes: Axes, methods: pl.DataFrame) -> None:
    """Each method's held-out score, a mark a model."""
    order = methods.group_by("title").agg(pl.col("score").mean()).sort("score", "title", descending=[True, False])["title"].to_list()
    for beside, (model, mark) in zip((-0.25, 0.25), MARKS.items(), strict=True):
        for row in methods.filter(model=model).drop_nulls("score").iter_rows(named=True):
            place = order.index(row["title"]) + beside
            if row["score_low"] is not None and row["score_low"] < row["score_high"]:
                axes.hlines(place, row["score_low"], row["score_high"], color=mark.colour, linewidth=1.2)
            axes.plot([row["score"]], [place], mark.marker, color=mark.colour, markersize=4.5)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("judge score (0–2)")
    axes.set_title("Which way of steering?")


def _draw_curves(axes: Axes, curves: pl.DataFrame, within: pl.DataFrame) -> None:
    """Net GenSuccess@20 of the kept features by threshold, a curve a model, the gain within layers, and the range that P1 reports."""
    for (model,), curve in curves.sort("threshold").group_by("model", maintain_order=True):
        mark = MARKS[str(model)]
        band(axes, np.arange(curve.height), curve, ("times_mean", "times_low", "times_high"), mark.colour, model, mark.marker)
    thresholds = curves["threshold"].unique().sort().to_list()
    for number, gain in enumerate(within.iter_rows(named=True)):
        mark, x = MARKS[gain["model"]], thresholds.index(gain["threshold"]) + 0.12 * (number + 1)
        axes.vlines(x, gain["times_low"], gain["times_high"], color=mark.colour, linewidth=1.5)
        name = f"{gain['model']}, within layers"
        axes.plot([x], [gain["times_mean"]], mark.marker, color=mark.colour, markerfacecolor="white", label=name)
    axes.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    axes.axhspan(*REPORTED, color=GREY, alpha=0.15, linewidth=0, label="P1, Gemma-2, not net")
    n_kept = curves.sort("threshold").group_by("threshold", maintain_order=True).agg(pl.col("n_kept").sum())
    threshold_axis(axes, n_kept["threshold"].to_list(), n_kept["n_kept"].to_list(), "Does the filter help?")
    axes.set_ylabel("held-out GenSuccess@20 of the kept features,\nnet of unsteered texts, times that of all")
