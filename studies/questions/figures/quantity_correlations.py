"""What each cheap quantity of a feature goes with: top logit-lens tokens written, or the judge's score."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, counted
from saesteer.figures.style import Figure
from studies.questions.choice_rules import RULES
from studies.questions.figures.dots import DotPanel, dot_figure, layer_title, marks_of, points

OUTCOMES = {
    "judge_score": "judge score at the best factor",
    "net_gen_success_20": "net success",
    "best_factor": "the best factor",
}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The outcomes that are drawn, quantities by what they say of the judge's score, over layers."""
    shown = tables["quantity_correlations"].filter(pl.col("outcome").is_in(list(OUTCOMES)))
    order = shown.filter(outcome="judge_score").group_by("quantity").agg(by=pl.col("rho").mean())
    ordered = shown.join(order, on="quantity", how="left").sort(
        "by", "quantity", "layer", "outcome", descending=[True] + [False] * 3, nulls_last=True
    )
    return ordered.drop("by").with_columns(confidence(options))


def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer."""
    names = [RULES[name] for name in data["quantity"].unique(maintain_order=True)]
    row, mark = pl.col("quantity").replace_strict(RULES), pl.col("outcome").replace_strict(OUTCOMES)
    panels = [
        DotPanel(points(rows, "rho", row=row, mark=mark), names, "rank correlation", zero=0.0, title=layer_title(rows))
        for rows in data.sort("layer", maintain_order=True).partition_by("layer", maintain_order=True) or [data]
    ]
    height = 0.5 + 0.28 * max(8, len(names))
    return dot_figure(panels, marks_of([*OUTCOMES.values()]), height, counts(data), "quantity", sharey=True)


counts = counted("n", "features", " that have both. Bars: {level} intervals over features.")

FIGURE = FigureDefinition(
    position=110,
    tables=("quantity_correlations",),
    caption="Rank correlation, over a layer's features, of each cheap quantity with the judge's score of the text (black), with the "
    "number of top logit-lens tokens that steering writes (magenta), and with the factor that is best (blue): what a filter promises and "
    "what is wanted can differ.",
    data=data,
    draw=draw,
    counts=counts,
)
