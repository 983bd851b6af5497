"""How well the feature that each rule picks for a concept steers, between a random pick and the best that could be picked."""

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saesteer.analysis.choice_rules import BEST, BY_JUDGE, COMMON, RANDOM, RULES, SCALED
from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import PAGE, empty_panel, new_figure, styled

FACTOR_RULES = {
    BY_JUDGE: "factor by the judge",
    "p1": "as in P1",
    "capped": "by capped perplexity",
    COMMON: "one for all",
    SCALED: "one multiple of the largest record",
}
TITLES = {BEST: "brute force on the other half", RANDOM: "random pick", **RULES}
_COLUMNS = ("factor_rule", "layer", "rule", "n_concepts", "n", "score", "score_low", "score_high")


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """What of the table is drawn, each layer's rules best first by the judge's own choice of factors, with the level of its intervals."""
    shown = tables["choice_rules"].select(_COLUMNS).with_columns(confidence(options))
    order = shown.filter(factor_rule=BY_JUDGE).select("layer", "rule", by="score")
    shown = shown.join(order, on=["layer", "rule"], how="left")
    return shown.sort("layer", "by", "rule", "factor_rule", descending=[False, True, False, False], nulls_last=True).drop("by")


def panel(axes: Axes, rows: pl.DataFrame) -> None:
    """One layer's rules, the best at the top."""
    rules = rows["rule"].unique(maintain_order=True).to_list()
    for number, name in enumerate(FACTOR_RULES):
        own = rows.filter(factor_rule=name)
        heights = own["rule"].replace_strict({rule: place for place, rule in enumerate(rules)}, return_dtype=pl.Float64)
        dots(axes, own, "score", heights + dodged(number, len(FACTOR_RULES)), number)
    named_rows(axes, [TITLES[rule] for rule in rules], "judge score of the pick (0–2)")
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    if rows["score"].null_count() == rows.height:
        empty_panel(axes, "no concept has two features that were judged")


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer."""
    layers = data.partition_by("layer", maintain_order=True)
    n_rules = data["rule"].n_unique()
    figure = new_figure(PAGE * 0.75 * max(1, len(layers)), 1.5 + 0.36 * max(8, n_rules), counts(data))
    panels = figure.subplots(1, max(1, len(layers)), squeeze=False)[0]
    for axes, rows in zip(panels, layers, strict=False):
        panel(axes, rows)
        axes.set_title(f"layer {rows['layer'][0]}")
    panels[0].set_ylabel("rule that picks")
    if not layers:
        empty_panel(panels[0], "no concept has two features that were judged")
        panels[0].set_xlabel("held-out judge score of the picked feature")
        return figure
    legend(figure, {title: number for number, title in enumerate(FACTOR_RULES.values())})
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts, over layers, and what the bars are."""
    if data.is_empty():
        return "n = 0 concepts with two labelled features or more."
    level = f"{data['confidence'][0]:.0%}"
    return f"{n_of(data['n_concepts'])} concepts with two labelled features or more. Bars: {level} bootstrap over concepts."
