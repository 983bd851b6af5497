"""Feature roles across layers: input and output score (P1, arXiv 2505.20063, figures 3 and 9)."""

import numpy as np
import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables
from saesteer.figures.style import BLUE, MAGENTA, PAGE, Axes, Figure, band, legend_above, new_figure, row_above

_UNIT = 0.01
_SCORES = (("input_score", BLUE, "o", "input score"), ("output_score", MAGENTA, "s", "output score"))


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """A row a layer: features, those without an input score, both scores' quartiles, smallest and largest norm of their decoder rows."""
    quartiles = [
        pl.col(score).quantile(level, "linear").alias(f"{score}_{name}")
        for score, *_ in _SCORES
        for level, name in ((0.25, "q25"), (0.5, "median"), (0.75, "q75"))
    ]
    missing = pl.col("input_score").null_count().alias("n_without_input_score")
    norms = (pl.col("decoder_norm").min().alias("decoder_norm_low"), pl.col("decoder_norm").max().alias("decoder_norm_high"))
    return tables["features"].group_by("layer").agg(pl.len().alias("n"), missing, *quartiles, *norms).sort("layer")


def panel(axes: Axes, data: pl.DataFrame) -> None:
    """Medians and quartile bands of both scores against layer, and how many features have each."""
    layers = data["layer"].cast(pl.Int64).to_numpy()
    for score, colour, marker, label in _SCORES:
        band(axes, layers, data, (f"{score}_median", f"{score}_q25", f"{score}_q75"), colour, label, marker)
    axes.set_xticks(layers if len(layers) <= 14 else layers[:: int(np.ceil(len(layers) / 14))])
    axes.set_xlim(layers.min() - 0.5, layers.max() + 0.5)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("layer")
    axes.set_ylabel("score (0 to 1)")
    above = row_above(axes, layers, data["n"].to_list(), 5.0, MAGENTA)
    above = row_above(axes, layers, (data["n"] - data["n_without_input_score"]).to_list(), above - 2, BLUE)
    axes.set_title("scores by layer", pad=above)


def draw(data: pl.DataFrame) -> Figure:
    """One panel, its legend above."""
    figure = new_figure(PAGE, 4.0, f"{counts(data)}\nLines: medians; bands: quartiles.")
    axes = figure.subplots()
    panel(axes, data)
    legend_above(figure, axes.get_legend_handles_labels()[0], columns=2)
    return figure


def norms_note(data: pl.DataFrame) -> str:
    """A note on decoder rows that are not of unit norm: a steering factor means more or less with them."""
    norms: list[float] = [*data["decoder_norm_low"].drop_nulls(), *data["decoder_norm_high"].drop_nulls()]
    unit = all(abs(norm - 1) < _UNIT for norm in norms)
    return "" if unit else f" Decoder rows have norms of {min(norms):g} to {max(norms):g}."


def counts(data: pl.DataFrame) -> str:
    """Features with each score."""
    n, missing = int(data["n"].sum()), int(data["n_without_input_score"].sum())
    return f"n = {n - missing} features with an input score, {n} with an output score; by layer above the panel.{norms_note(data)}"


FIGURE = FigureDefinition(
    position=20,
    tables=("features",),
    caption="Median (line) and inter-quartile range (band) of the input score (blue) and output score (magenta) of each layer's features: "
    "features of early layers say what is read, features of late layers what will be written.",
    data=data,
    draw=draw,
    counts=counts,
)
