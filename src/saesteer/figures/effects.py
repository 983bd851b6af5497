"""How well the effects of steering are predicted (SAE-TS): from more vectors, and beyond the scale of the fitted ones."""

from itertools import chain

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import LOOKS
from saesteer.figures.method_families import n_of
from saesteer.figures.style import GREY, WIDE, band, log_axis, new_figure, styled

_MODELS = {"linear": "linear (SAE-TS)", "kernel": "kernel regression"}
_MEASURES = {"size": "norm over that at 1", "cosine": "cosine with that at 1", "pattern": "cosine, predicted and measured"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """Both tables one under the other, in long form: panel, layer, curve, x, y and the ends of its interval."""
    sizes, multiples = tables["approximator_sizes"], tables["effect_multiples"]
    curves = [("vectors", sizes.rename({"model": "curve"}), "n", "r2", "n_held_out")]
    curves += [("multiple", multiples.with_columns(curve=pl.lit(name)), "multiple", name, "n") for name in _MEASURES]
    return pl.concat(
        rows.select(
            "layer",
            "curve",
            panel=pl.lit(panel),
            x=pl.col(x).cast(pl.Float64),
            y=pl.col(y),
            low=pl.col(f"{y}_low"),
            high=pl.col(f"{y}_high"),
            n_vectors=pl.col(n).cast(pl.UInt32),
        ).with_columns(confidence(options))
        for panel, rows, x, y, n in curves
    ).sort("layer", "panel", "curve", "x")


def lines(axes: Axes, rows: pl.DataFrame, names: dict[str, str], first_look: int) -> None:
    """A line a curve, over a logarithmic axis."""
    for number, (name, title) in enumerate(names.items(), start=first_look):
        own = rows.filter(curve=name)
        marker, colour = LOOKS[number]
        band(axes, own["x"].to_numpy(), own, ("y", "low", "high"), colour, title, marker)
    log_axis(axes, rows["x"])


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A row a layer: numbers of vectors on the left, multiples on the right."""
    layers = data.partition_by("layer", maintain_order=True)
    figure = new_figure(WIDE, 1.2 + 2.6 * len(layers), counts(data))
    panels = figure.subplots(len(layers), 2, squeeze=False)
    for (left, right), rows in zip(panels, layers, strict=True):
        for axes, panel, names, first in ((left, "vectors", _MODELS, 0), (right, "multiple", _MEASURES, 2)):
            own = rows.filter(panel=panel)
            lines(axes, own, names, first)
        left.set_xlabel("vectors that it is fitted on")
        left.set_ylabel(f"layer {rows['layer'][0]}\nheld-out R²")
        right.axhline(1, color=GREY, linewidth=0.8)
        right.set_xlabel("multiple of the fitted scale")
        right.set_ylabel("norm ratio, or cosine")
    handles, titles = zip(*(axes.get_legend_handles_labels() for axes in panels[0]), strict=True)
    figure.legend([*chain(*handles)], [*chain(*titles)], loc="outside upper center", ncols=3)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Vectors, and what bands are."""
    return f"{n_of(data['n_vectors'])} held-out vectors a layer. Bands: {data['confidence'][0]:.0%} bootstrap over them."
