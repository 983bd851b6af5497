"""What P1's filter gains over the whole population, beside small samples of it."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, counted
from saesteer.figures.style import Figure
from studies.questions.figures.dots import DotPanel, Mark, dot_figure, points

_TITLES = {"net_gen_success_20": "net success", "gen_success_20": "GenSuccess@20", "judge_score": "judge score"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table, all layers together first."""
    order = pl.col("layers").cast(pl.Int64, strict=False).fill_null(-1)
    return tables["headline_samples"].sort("measure", order).with_columns(confidence(options))


def draw(data: pl.DataFrame) -> Figure:
    """A panel a measure."""
    samples = f"samples of {max(data['n_sampled'].to_list(), default=0)} a layer"
    named = data.with_columns(name=pl.when(layers="all").then(pl.lit("all layers")).otherwise(pl.concat_str(pl.lit("layer "), "layers")))
    panels = []
    for measure, title in _TITLES.items():
        rows = named.filter(measure=measure)
        columns = {"ratio": "all features", "sampled_ratio": samples}
        ratios = pl.concat(points(rows, column, row=pl.col("name"), mark=mark) for column, mark in columns.items())
        panels.append(DotPanel(ratios, rows["name"].to_list(), "mean of kept / mean of all", title=title, zero=1.0))
    height = 0.8 + 0.4 * max(1, data["layers"].n_unique())
    return dot_figure(
        panels,
        {"all features": Mark(0), samples: Mark(3)},
        height,
        counts(data),
        "features of",
        columns=len(_TITLES),
        spread=0.3,
        sharey=True,
    )


counts = counted("n", "features", ". Bars: {level} intervals over features (all), {level} of the samples (grey).")

FIGURE = FigureDefinition(
    position=120,
    tables=("headline_samples",),
    caption="Mean of the features that P1's filter keeps over the mean of all: of the whole population, with its interval (black), and in "
    "random samples of as many features a layer as the shipped headline is made of (grey). At 1 the filter changes nothing.",
    data=data,
    draw=draw,
    counts=counts,
)
