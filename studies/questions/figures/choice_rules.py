"""How well the feature that each rule picks for a concept steers, between a random pick and the best that could be picked."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, counted
from saesteer.figures.style import PAGE, Figure
from studies.questions.choice_rules import BEST, BY_JUDGE, COMMON, RANDOM, RULES, SCALED
from studies.questions.figures.dots import DotPanel, dot_figure, layer_title, marks_of, points

FACTOR_RULES = {
    BY_JUDGE: "factor by the judge",
    "p1": "as in P1",
    "capped": "by capped perplexity",
    COMMON: "one for all",
    SCALED: "one multiple of the max activation",
}
TITLES = {BEST: "brute force on the other half", RANDOM: "random pick", **RULES}
_COLUMNS = ("factor_rule", "layer", "rule", "n_concepts", "n", "score", "score_low", "score_high")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """What of the table is drawn, each layer's rules best first by the judge's own choice of factors, with the level of its intervals."""
    shown = tables["choice_rules"].select(_COLUMNS).with_columns(confidence(options))
    order = shown.filter(factor_rule=BY_JUDGE).select("layer", "rule", by="score")
    shown = shown.join(order, on=["layer", "rule"], how="left")
    return shown.sort("layer", "by", "rule", "factor_rule", descending=[False, True, False, False], nulls_last=True).drop("by")


def panel(rows: pl.DataFrame) -> DotPanel:
    """A layer's rules, the best at the top."""
    row, mark = pl.col("rule").replace_strict(TITLES), pl.col("factor_rule").replace_strict(FACTOR_RULES)
    return DotPanel(
        points(rows, "score", row=row, mark=mark),
        rows=[TITLES[rule] for rule in rows["rule"].unique(maintain_order=True)],
        x_label="judge score of the pick (0–2)",
        title=layer_title(rows),
        left=0.0,
        empty="no concept has two features that were judged",
    )


def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer."""
    panels = [panel(rows) for rows in data.partition_by("layer", maintain_order=True) or [data]]
    size = (PAGE * 0.75 * len(panels), 1.5 + 0.36 * max(8, data["rule"].n_unique()))
    return dot_figure(panels, marks_of([*FACTOR_RULES.values()]), size, counts(data), "rule that picks")


counts = counted("n_concepts", "concepts with two labelled features or more", ". Bars: {level} intervals over concepts.")

FIGURE = FigureDefinition(
    position=100,
    tables=("choice_rules",),
    caption="Held-out judge score of the feature that each rule picks for a concept, among all features of the layer that are labelled "
    "with it: every one was steered and judged. Brute force picks by the judge's scores on the other half. Marks: ways to choose "
    "the factor.",
    data=data,
    draw=draw,
    counts=counts,
)
