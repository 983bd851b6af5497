"""What each cheap quantity of a feature goes with: lens tokens written, or the judge's score."""

import polars as pl
from matplotlib.figure import Figure

from saesteer.analysis.choice_rules import RULES
from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import PAGE, new_figure, styled

OUTCOMES = {
    "judge_score": "judge score at the best factor",
    "gen_success_20": "GenSuccess@20",
    "best_factor": "the best factor",
}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The outcomes that are drawn, quantities by what they say of the judge's score, over layers."""
    shown = tables["quantity_correlations"].filter(pl.col("outcome").is_in(list(OUTCOMES)))
    order = shown.filter(outcome="judge_score").group_by("quantity").agg(by=pl.col("rho").mean())
    made = shown.join(order, on="quantity", how="left").sort(
        "by", "quantity", "layer", "outcome", descending=[True] + [False] * 3, nulls_last=True
    )
    return made.drop("by").with_columns(confidence(options))


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer."""
    names = data["quantity"].unique(maintain_order=True).to_list()
    layers = data["layer"].unique().sort().to_list()
    figure = new_figure(PAGE * (0.4 + 0.4 * max(1, len(layers))) * 1.1, 1.5 + 0.28 * max(8, len(names)), counts(data))
    panels = figure.subplots(1, max(1, len(layers)), squeeze=False, sharey=True)[0]
    for axes, layer in zip(panels, layers or [None], strict=True):
        for number, outcome in enumerate(OUTCOMES):
            own = data.filter(layer=layer, outcome=outcome) if layer is not None else data
            places = own["quantity"].replace_strict({name: place for place, name in enumerate(names)}, return_dtype=pl.Float64)
            dots(axes, own, "rho", places + dodged(number, len(OUTCOMES)), number)
        named_rows(axes, [RULES[name] for name in names], "rank correlation", zero=0.0)
        axes.set_title(f"layer {layer}" if layer is not None else "")
    panels[0].set_ylabel("quantity")
    legend(figure, {title: number for number, title in enumerate(OUTCOMES.values())})
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features behind the correlations."""
    if data.is_empty():
        return "n = 0 features."
    return f"{n_of(data['n'])} features that have both. Bars: {data['confidence'][0]:.0%} bootstrap over features."
