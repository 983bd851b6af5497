"""What the judge says of features kept by output score and of those removed."""

import numpy as np
import polars as pl

from saesteer.figures.definition import FEW_NOTE, FigureDefinition, Options, Tables, banded, constants, held_out, where_something_changes
from saesteer.figures.style import GREY, MAGENTA, PAGE, Axes, Figure, band, legend_above, new_figure, no_ratings, threshold_axis
from saesteer.settings import Experiment, Sweep

TITLES = {"concept_rating": "concept", "fluency_rating": "fluency", "judge_score": "harmonic mean"}
_NUMBERS = ("mean", "low", "high", "removed_mean", "removed_low", "removed_high")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The judge's measures at each threshold, all layers, under the rule shown."""
    curves = tables["selection"].filter(pl.col("measure").is_in(list(TITLES)), rule=options.rule, layers="all")
    columns = ("measure", "threshold", "n_features", "n_missing", "n_kept", *_NUMBERS)
    shown = where_something_changes(curves, "measure").select(*columns, *constants(options)).sort("measure", "threshold")
    kept = banded(shown, "n_kept", "low", "high")
    return banded(kept, pl.col("n_features").cast(pl.Int64) - pl.col("n_kept").cast(pl.Int64), "removed_low", "removed_high")


def panel(axes: Axes, curve: pl.DataFrame, title: str) -> None:
    """One rating of kept and of removed features against threshold."""
    x = np.arange(curve.height)
    band(axes, x, curve, ("mean", "low", "high"), MAGENTA, "kept", "o")
    band(axes, x, curve, ("removed_mean", "removed_low", "removed_high"), GREY, "removed", "s")
    if not is_rated(curve):
        no_ratings(axes)
    threshold_axis(axes, curve["threshold"].to_list(), curve["n_kept"].to_list(), title)
    axes.set_ylim(-0.05, 2.05)


def is_rated(curve: pl.DataFrame) -> bool:
    """Whether any feature has the rating."""
    return bool(curve["n_features"].sum())


def draw(data: pl.DataFrame) -> Figure:
    """Concept, fluency and their harmonic mean side by side; those that nothing was rated for are left out."""
    rated = [measure for measure in TITLES if is_rated(data.filter(measure=measure))] or ["judge_score"]
    figure = new_figure(PAGE, 4.0, counts(data))
    panels = figure.subplots(1, len(rated), sharey=True, squeeze=False).ravel()
    for axes, measure in zip(panels, rated, strict=True):
        panel(axes, data.filter(measure=measure), TITLES[measure])
    panels[0].set_ylabel(f"mean rating, {held_out(data, ' ')} (0 to 2)")
    legend_above(figure, panels[0].get_legend_handles_labels()[0], columns=2)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features with and without each rating."""
    firsts = [(title, data.filter(measure=measure).row(0, named=True)) for measure, title in TITLES.items()]
    sizes = "; ".join(f"{title}: n = {first['n_features']}, {first['n_missing']} without" for title, first in firsts)
    return (
        f"{sizes} (no clear concept, or steering failed). Bands: {data['confidence'][0]:.0%} intervals over features, "
        f"{FEW_NOTE}; features removed are the others of the same n."
    )


def has_ratings(experiment: Experiment) -> bool:
    """Whether a judge rates the texts."""
    return isinstance(experiment, Sweep) and experiment.is_rated


FIGURE = FigureDefinition(
    position=70,
    tables=("selection",),
    data=data,
    draw=draw,
    counts=counts,
    applies=has_ratings,
    caption="Mean rating by the judge of text steered with the features kept at each threshold (magenta) and with those removed (grey): "
    "how much it is about the feature's concept, how well-formed it is, and the mean of the texts' harmonic means.",
)
