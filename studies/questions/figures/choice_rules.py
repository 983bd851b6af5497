"""How well the feature that each rule picks for a concept steers, between a random pick and the best that could be picked."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, counted
from saesteer.figures.style import Figure
from studies.questions.choice_rules import BEST, BY_JUDGE, RANDOM, RULES
from studies.questions.figures.dots import DotPanel, dot_figure, layer_marks, points

TITLES = {BEST: "brute force on the other half", RANDOM: "random pick", **RULES}
_COLUMNS = ("factor_rule", "layer", "rule", "n_concepts", "n", "score", "score_low", "score_high")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The rows whose factors the judge chose, rules by their mean score over layers, with the level of their intervals."""
    shown = tables["choice_rules"].filter(factor_rule=BY_JUDGE).select(_COLUMNS).with_columns(confidence(options))
    order = shown.group_by("rule").agg(by=pl.col("score").mean())
    shown = shown.join(order, on="rule", how="left")
    return shown.sort("by", "rule", "layer", descending=[True, False, False], nulls_last=True).drop("by")


def panel(rows: pl.DataFrame) -> DotPanel:
    """The rules, the best at the top; a mark a layer."""
    row, mark = pl.col("rule").replace_strict(TITLES), pl.format("layer {}", "layer")
    return DotPanel(
        points(rows, "score", row=row, mark=mark),
        rows=[TITLES[rule] for rule in rows["rule"].unique(maintain_order=True)],
        x_label="judge score of the pick (0–2)",
        title="how well the picked feature steers",
        left=0.0,
        empty="no concept has two features that were judged",
    )


def draw(data: pl.DataFrame) -> Figure:
    """One panel, a mark a layer."""
    layers = layer_marks(data["layer"])
    height = 0.4 + (0.18 + 0.05 * len(layers)) * max(8, data["rule"].n_unique())
    return dot_figure(panel(data), layers, height, counts(data), "rule that picks")


counts = counted("n_concepts", "concepts with two labelled features or more", ". Bars: {level} intervals over concepts.")

FIGURE = FigureDefinition(
    position=100,
    tables=("choice_rules",),
    caption="Held-out judge score of the feature that each rule picks for a concept, among all features of the layer that are labelled "
    "with it: every one was steered and judged. Factors are those of the highest judge score on "
    "the other half of the prefixes; brute force picks by that score too. Marks: layers.",
    data=data,
    draw=draw,
    counts=counts,
)
