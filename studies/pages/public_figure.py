"""The figure of the findings: what P1's filter gains on the two public models, and how well each way of steering does there."""

from pathlib import Path

import numpy as np
import polars as pl

from saesteer.core.tables import SELECTION
from saesteer.figures.style import GREY, PAGE, Axes, Figure, band, legend_entry, new_figure, styled, threshold_axis
from saesteer.figures.thresholds import FEW_NOTE, SMALL, banded
from studies.pages.dots import DotPanel, Mark, draw_dots, points
from studies.pages.methods import METHODS_TABLE, results
from studies.pages.public import MODELS, REGISTERED, RESULTS, methods_folder

MARKS = {model: Mark(look) for look, model in enumerate(MODELS.values())}
REPORTED = (2.0, 3.0)
"""P1's gain on Gemma-2 2B and 9B, not net of unsteered texts."""
_CURVE, _METHODS = "threshold", "methods"


def data(root: Path) -> pl.DataFrame:
    """Rows of both panels, by `panel` and `model`. The curves are multiples of the mean of all features."""
    parts = []
    for experiment, model in MODELS.items():
        selection = pl.read_csv(root / RESULTS / experiment / f"{SELECTION.name}.csv", infer_schema_length=None)
        curves = gains(selection.filter(rule=REGISTERED))
        methods = results(root, METHODS_TABLE, methods_folder(experiment))
        parts += [of.with_columns(panel=pl.lit(name), model=pl.lit(model)) for name, of in ((_CURVE, curves), (_METHODS, methods))]
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
    """The threshold curves, and the methods, best first by the mean of both models."""
    curves, methods = rows.filter(panel=_CURVE), rows.filter(panel=_METHODS)
    sizes = ", ".join(f"{int(of['n_features'][0])} ({model})" for (model,), of in curves.group_by("model", maintain_order=True))
    n_concepts = int(methods["n"].to_numpy().max())
    note = f"n = {sizes} features (left; above it, how many are kept of both models), {n_concepts} concepts (right)."
    figure = new_figure(PAGE, 3.8, f"{note} Bands and bars: 95% intervals; {FEW_NOTE}.")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    _draw_curves(left, curves)
    order = methods.group_by("title").agg(pl.col("score").mean()).sort("score", "title", descending=[True, False])["title"].to_list()
    shown = points(methods, "score", row=pl.col("title"), mark=pl.col("model"))
    draw_dots(right, DotPanel(shown, order, "judge score (0–2)", left=0.0, title="Which way of steering?"), MARKS)
    right.legend(loc="lower right", handles=[legend_entry(name, mark.colour, marker=mark.marker) for name, mark in MARKS.items()])
    return figure


def _draw_curves(axes: Axes, curves: pl.DataFrame) -> None:
    """Net GenSuccess@20 of the kept features by threshold, a curve a model, and the range that P1 reports."""
    for model, mark in MARKS.items():
        curve = curves.filter(model=model).sort("threshold")
        band(axes, np.arange(curve.height), curve, ("times_mean", "times_low", "times_high"), mark.colour, model, mark.marker)
    axes.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    axes.axhspan(*REPORTED, color=GREY, alpha=0.15, linewidth=0, label="P1, Gemma-2, not net")
    n_kept = curves.sort("threshold").group_by("threshold", maintain_order=True).agg(pl.col("n_kept").sum())
    threshold_axis(axes, n_kept["threshold"].to_list(), n_kept["n_kept"].to_list(), "Does the filter help?")
    axes.set_ylabel("held-out GenSuccess@20 of the kept features,\nnet of unsteered texts, times that of all")
    axes.legend(loc="upper left")
