"""A predictor from all quantities, trained on other layers, beside single quantities; and its weights."""

import polars as pl
from matplotlib.figure import Figure

from saesteer.analysis.choice_rules import BEST, BY_JUDGE, RANDOM, RULES
from saesteer.figures.choice_rules import TITLES
from saesteer.figures.definition import Options, Tables, confidence
from saesteer.figures.dots import dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import WIDE, empty_panel, new_figure, styled

PREDICTOR, ELSEWHERE = "predictor", "predictor of another experiment"
_BESIDE = (BEST, "max_activation", "output_score", RANDOM)


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """Scores of picks (`rule`), then weights (`quantity`)."""
    columns = ("layer", "rule", "n_concepts", "score", "score_low", "score_high")
    elsewhere = pl.col("penalty").is_null()
    rule = pl.when(elsewhere).then(pl.lit(ELSEWHERE)).otherwise(pl.lit(PREDICTOR))
    ours = tables["predictions"].with_columns(rule=rule).select(columns)
    rules = tables["choice_rules"].filter(pl.col("rule").is_in(_BESIDE), factor_rule=BY_JUDGE).select(columns)
    rules = rules.join(ours.select("layer"), on="layer", how="semi")
    weights = tables["predictor_weights"]
    order = weights.group_by("quantity").agg(by=pl.col("weight").mean())
    weights = weights.join(order, on="quantity").sort("by", "quantity", "layer", descending=[True, False, False]).drop("by")
    return pl.concat([pl.concat([ours, rules]).sort("rule", "layer"), weights], how="diagonal").with_columns(confidence(options))


@styled
def draw(data: pl.DataFrame) -> Figure:
    """Scores on the left, weights on the right; a mark a layer that is predicted, from the others."""
    layers = data["layer"].unique().sort().to_list()
    names = data["quantity"].drop_nulls().unique(maintain_order=True).to_list()
    figure = new_figure(WIDE, 1.7 + 0.22 * max(12, len(names)), counts(data))
    left, right = figure.subplots(1, 2)
    rules = [rule for rule in (PREDICTOR, ELSEWHERE, *_BESIDE) if rule != ELSEWHERE or rule in data["rule"]]
    for number, layer in enumerate(layers):
        own, beside = data.filter(layer=layer), dodged(number, len(layers), 0.3)
        scores, weights = own.drop_nulls("rule"), own.drop_nulls("quantity")
        dots(
            left,
            scores,
            "score",
            scores["rule"].replace_strict({rule: place for place, rule in enumerate(rules)}, return_dtype=pl.Float64) + beside,
            number,
        )
        places = weights["quantity"].replace_strict({name: place for place, name in enumerate(names)}, return_dtype=pl.Float64)
        dots(right, weights.select("weight"), "weight", places + beside, number)
    named_rows(left, [TITLES.get(rule, rule) for rule in rules], "judge score of the pick (0–2)")
    named_rows(right, [RULES[name] for name in names], "weight (judge score for 1 s.d.)", zero=0.0)
    left.set_ylabel("rule that picks")
    if not layers:
        empty_panel(left, "one layer: there is no other to learn from")
    legend(figure, {f"layer {layer}": number for number, layer in enumerate(layers)})
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts, and what bars are."""
    n = data["n_concepts"].drop_nulls()
    if n.is_empty():
        return "n = 0 concepts."
    return f"{n_of(n)} concepts. Bars: {data['confidence'][0]:.0%} bootstrap over concepts."
