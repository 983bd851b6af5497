"""Do steered texts' words belong with the feature's top logit-lens tokens? PMI by threshold (P1, arXiv 2505.20063, figure 8)."""

import numpy as np
import polars as pl

from saesteer.analysis.selection import LAYER_SETS
from saesteer.core.uncertainty import FEWEST_WITHOUT_SCALE
from saesteer.figures.definition import FigureDefinition, Options, Tables, constants, first_layer, where_something_changes
from saesteer.figures.style import BLUE, GREY, Axes, Figure, band, by_layer_set, empty_panel, layers_title, threshold_axis


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The table's curves, with the first layer of each set and the level of its intervals."""
    curves = where_something_changes(tables["pmi"], "layers")
    return curves.with_columns(first_layer(options), *constants(options)).sort("layers", "threshold")


def panel(axes: Axes, curve: pl.DataFrame, title: str) -> None:
    """One set of layers: mean PMI of the features kept against threshold."""
    band(axes, np.arange(curve.height), curve, ("mean", "low", "high"), BLUE, "kept by output score", "o")
    if curve["mean"].is_null().all():
        empty_panel(axes, "no feature has a PMI")
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle="--", label="independent words", zorder=1)
    threshold_axis(axes, curve["threshold"].to_list(), curve["n_kept"].to_list(), title)
    axes.set_ylabel("mean PMI of generated top tokens\nwith top logit-lens tokens (nats)")


def draw(data: pl.DataFrame) -> Figure:
    """All layers on the left, late ones on the right."""
    return by_layer_set([data], panel, counts(data), legend_columns=2)


def counts(data: pl.DataFrame) -> str:
    """Features with and without a PMI, for both sets of layers."""
    curves = [data.filter(layers=layers) for layers in LAYER_SETS]
    sizes = "; ".join(f"{layers_title(c)}: n = {c['n_kept'][0]}, {c['n_missing'][0]} without a co-occurring pair" for c in curves)
    return f"{sizes}. Bands: {data['confidence'][0]:.0%} intervals over features, none of fewer than {FEWEST_WITHOUT_SCALE}."


FIGURE = FigureDefinition(
    position=80,
    tables=("pmi",),
    caption="Mean pointwise mutual information of the tokens a feature makes the model write most with its top logit-lens tokens, "
    "by threshold of the output score; above 0 they occur together in texts more often than by chance, and a token is never paired with "
    "itself.",
    data=data,
    draw=draw,
    counts=counts,
)
