"""The README's figure: what the filter by output score gains on the shipped model, and which rule picks a concept's feature best."""

from pathlib import Path

import numpy as np
import polars as pl

from saesteer.analysis.best_factor import RULES
from saesteer.figures.style import BLACK, GREY, MAGENTA, PAGE, Axes, Figure, band, legend_entry, new_figure, styled, threshold_axis
from saesteer.figures.thresholds import SMALL, banded
from studies.pages.questions import JUDGED, results
from studies.questions.choice_rules import BEST, RANDOM
from studies.questions.figures.dots import DotPanel, draw_dots, layer_marks, points

SELECTION = Path("docs/results/tiny/selection.csv")
"""Success by threshold of the shipped experiment, under both factor rules, in git."""
_CURVE, _PICKS = "threshold", "picks"
_COLOURS = {"p1": BLACK, "capped": MAGENTA}
_RULES = {
    BEST: "brute force",
    "max_activation": "max activation",
    "input_score": "input score",
    "output_score": "output score",
    RANDOM: "random",
}
"""Rules that do not read the labels that the judge goes by, by short names, for a panel of half a page."""


def data(root: Path) -> pl.DataFrame:
    """Rows of both panels, by `panel`. The curves are multiples of the mean of all features."""
    curves = gains(pl.read_csv(root / SELECTION))
    picks = pl.DataFrame(results(root, "choice_rules"), infer_schema_length=None).filter(pl.col("rule").is_in(list(_RULES)), **JUDGED)
    return pl.concat([curves.with_columns(panel=pl.lit(_CURVE)), picks.with_columns(panel=pl.lit(_PICKS))], how="diagonal_relaxed")


def gains(selection: pl.DataFrame) -> pl.DataFrame:
    """SELECTION rows of net success over all layers, by rule and threshold, with its mean and interval as multiples of the mean of all
    features (times_mean, times_low, times_high)."""
    curves = selection.filter(measure="net_gen_success_20", layers="all")
    whole = pl.col("mean").filter(threshold=0.0).first().over("rule")
    times = [(pl.col(name) / whole).alias(f"times_{name}") for name in ("mean", "low", "high")]
    return banded(curves.with_columns(times).filter(pl.col("threshold") >= SMALL), "n_kept", "times_low", "times_high")


@styled
def draw(rows: pl.DataFrame) -> Figure:
    """The threshold curves, and the picks of a few rules at each layer."""
    curves, picks = rows.filter(panel=_CURVE), rows.filter(panel=_PICKS)
    n, n_concepts = int(curves["n_features"][0]), int(picks["n_concepts"].to_numpy().max())
    figure = new_figure(PAGE, 3.4, f"n = {n} features (left), {n_concepts} concepts (right). Bands and bars: 95% intervals.")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    _draw_curves(left, curves)
    marks = layer_marks(picks["layer"].cast(pl.Int64))
    shown = points(picks, "score", row=pl.col("rule").replace_strict(_RULES), mark=pl.format("layer {}", pl.col("layer").cast(pl.Int64)))
    draw_dots(right, DotPanel(shown, list(_RULES.values()), "judge score (0–2)", left=0.0, title="Which rule picks the feature?"), marks)
    right.legend(loc="lower right", handles=[legend_entry(name, mark.colour, marker=mark.marker) for name, mark in marks.items()])
    return figure


def _draw_curves(axes: Axes, curves: pl.DataFrame) -> None:
    """Net GenSuccess@20 of the kept features by threshold, a curve a factor rule."""
    for rule, colour in _COLOURS.items():
        curve = curves.filter(rule=rule).sort("threshold")
        columns = ("times_mean", "times_low", "times_high")
        band(axes, np.arange(curve.height), curve, columns, colour, f"factor by {RULES[rule]}", "o" if rule == "capped" else "s")
    axes.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    threshold_axis(axes, curve["threshold"].to_list(), curve["n_kept"].to_list(), "Does the filter help?")
    axes.set_ylabel("held-out GenSuccess@20 of the kept features,\nnet of unsteered texts, times that of all")
    axes.legend(loc="upper left")
