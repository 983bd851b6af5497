"""How well the effects of steering are predicted (SAE-TS): from more vectors, and beyond the scale of the fitted ones."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, counted
from saesteer.figures.style import GREY, Figure, legend_above
from studies.questions.figures.dots import Mark, draw_curves, two_panels_a_layer

_MODELS = {"linear": "linear (SAE-TS)", "kernel": "kernel regression"}
_MEASURES = {"size": "norm over that at 1", "cosine": "cosine with that at 1", "pattern": "cosine, predicted and measured"}
_MODEL_MARKS = {title: Mark(look) for look, title in enumerate(_MODELS.values())}
_MEASURE_MARKS = {title: Mark(look) for look, title in enumerate(_MEASURES.values(), start=len(_MODELS))}


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


def draw(data: pl.DataFrame) -> Figure:
    """A row a layer: numbers of vectors on the left, multiples on the right."""
    figure, layers = two_panels_a_layer(data, counts(data))
    for left, right, rows in layers:
        for axes, panel, marks in ((left, "vectors", _MODEL_MARKS), (right, "multiple", _MEASURE_MARKS)):
            curves = rows.filter(panel=panel).rename({"y": "value"})
            draw_curves(axes, curves.with_columns(mark=pl.col("curve").replace_strict(_MODELS | _MEASURES)), marks)
        left.set_xlabel("vectors that it is fitted on")
        left.set_ylabel("held-out R²")
        left.set_title(f"number of vectors, layer {rows['layer'][0]}")
        right.set_title(f"larger and smaller vectors, layer {rows['layer'][0]}")
        right.axhline(1, color=GREY, linewidth=0.8)
        right.set_xlabel("multiple of the fitted scale")
        right.set_ylabel("norm ratio, or cosine")
    if layers:
        entries = zip(*(axes.get_legend_handles_labels() for axes in layers[0][:2]), strict=True)
        legend_above(figure, *([*left, *right] for left, right in entries), columns=3)
    return figure


counts = counted("n_vectors", "held-out vectors", " a layer. Bands: {level} intervals over them.")

FIGURE = FigureDefinition(
    position=180,
    tables=("approximator_sizes", "effect_multiples"),
    caption="Left: how much of the effects of vectors it was not fitted on the approximator of SAE-TS explains, by the number of vectors "
    "that it is fitted on, and a kernel regression on the same ones. Right: vectors at multiples of the fitted scale: the "
    "effect's norm over that at 1, its cosine with that at 1, and the cosine of predicted and measured effects.",
    data=data,
    draw=draw,
    counts=counts,
)
