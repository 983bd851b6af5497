"""What P1's filter gains over the whole population, beside small samples of it."""

import polars as pl
from matplotlib.figure import Figure

from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import WIDE, new_figure, styled

_TITLES = {"gen_success_20": "GenSuccess@20", "judge_score": "judge score"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table, all layers together first."""
    return (
        tables["headline_samples"]
        .sort("measure", pl.col("layers").cast(pl.Int64, strict=False).fill_null(-1))
        .with_columns(confidence(options))
    )


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A panel a measure."""
    n_rows = max(1, data["layers"].n_unique())
    figure = new_figure(WIDE, 1.7 + 0.45 * n_rows, counts(data))
    panels = figure.subplots(1, len(_TITLES))
    for axes, (measure, title) in zip(panels, _TITLES.items(), strict=True):
        rows = data.filter(measure=measure)
        places = pl.Series(range(rows.height), dtype=pl.Float64)
        dots(axes, rows, "ratio", places + dodged(0, 2, 0.3), 0)
        dots(axes, rows, "sampled_ratio", places + dodged(1, 2, 0.3), 3)
        layers = pl.concat_str(pl.lit("layer "), "layers")
        names = rows.select(pl.when(pl.col("layers") == "all").then(pl.lit("all layers")).otherwise(layers)).to_series().to_list()
        named_rows(axes, names, f"{title}: mean of features kept / mean of all", zero=1.0)
    panels[0].set_ylabel("features of")
    n_sampled = max(data["n_sampled"].to_list(), default=0)
    legend(figure, {"all features": 0, f"samples of {n_sampled} a layer": 3})
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features of a row, and what bars are."""
    if data.is_empty():
        return "n = 0 features."
    level = f"{data['confidence'][0]:.0%}"
    return f"{n_of(data['n'])} features. Bars: {level} bootstrap over features (all), {level} of the samples (grey)."
