"""The output score at other factors and prompts, against the experiment's own setting and as a rule that picks."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, n_of
from saesteer.figures.style import Figure
from studies.questions.figures.dots import DotPanel, Mark, draw_curves, draw_dots, legend, marks_of, points, two_panels_a_layer

_CURVES = {"rho": "rank correlation with the own setting", "rho_judge": "with the judge score"}
_KEPT = "Jaccard of the features kept"
_PROMPT_MARKS = {_CURVES["rho"]: Mark(0), _KEPT: Mark(3)}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The whole table, the own setting marked in it, factors as numbers."""
    rows = tables["setting_agreement"].with_columns(confidence(options), pl.col("factor").cast(pl.Float64))
    own_setting = rows.filter(pl.col("is_own")).select("layer", own_prompt="prompt", own_factor="factor")
    return rows.join(own_setting, on="layer", how="left").sort("layer", "prompt", "factor")


def draw(data: pl.DataFrame) -> Figure:
    """A row a layer: factors on the left, prompts on the right."""
    figure, layers = two_panels_a_layer(data, counts(data))
    for left, right, rows in layers:
        factors = rows.filter(pl.col("prompt") == pl.col("own_prompt"))
        curves = pl.concat(points(factors, column, x=pl.col("factor"), mark=name) for column, name in _CURVES.items())
        draw_curves(left, curves, marks_of([*_CURVES.values()]))
        left.set_xlabel("factor of the output score")
        left.set_ylabel("rank correlation")
        left.set_title(f"other factors, layer {rows['layer'][0]}")
        prompts = rows.filter((pl.col("factor") == pl.col("own_factor")) & (pl.col("prompt") != pl.col("own_prompt")))
        columns = dict(zip(("rho", "jaccard"), _PROMPT_MARKS, strict=True))
        agreement = pl.concat(points(prompts, column, row=pl.col("prompt"), mark=name) for column, name in columns.items())
        title = f"other prompts, layer {rows['layer'][0]}"
        draw_dots(right, DotPanel(agreement, prompts["prompt"].to_list(), "agreement", title=title), _PROMPT_MARKS, spread=0.3)
    legend(figure, marks_of([*_CURVES.values()]) | _PROMPT_MARKS)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features, and what bands are."""
    if data.is_empty():
        return "n = 0 features."
    prompt, level = data["own_prompt"][0], f"{data['confidence'][0]:.0%}"
    return f"{n_of(data['n'])} features of a layer; own prompt: {prompt!r}. Bands and bars: {level} intervals over features."


FIGURE = FigureDefinition(
    position=150,
    tables=("setting_agreement",),
    caption="The output score at other factors, in multiples of a_max (left), and other neutral prompts (right) against the experiment's "
    "own setting: rank correlations with it and with the judge score, and overlap of the features kept.",
    data=data,
    draw=draw,
    counts=counts,
)
