"""A predictor from all quantities, trained on other layers, beside single quantities; and its weights."""

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, confidence, counted
from saesteer.figures.style import Figure
from studies.questions.choice_rules import BEST, BY_JUDGE, RANDOM, RULES
from studies.questions.figures.choice_rules import TITLES as RULE_TITLES
from studies.questions.figures.dots import DotPanel, dot_figure, layer_marks, points

PREDICTOR, ELSEWHERE = "predictor", "predictor of another experiment"
_BESIDE = (BEST, "max_activation", "output_score", RANDOM)
_TITLES = {PREDICTOR: PREDICTOR, ELSEWHERE: ELSEWHERE} | {rule: RULE_TITLES[rule] for rule in _BESIDE}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """Scores of picks (`rule`), then weights (`quantity`)."""
    columns = ("layer", "rule", "n_concepts", "score", "score_low", "score_high")
    elsewhere = pl.col("penalty").is_null()
    rule = pl.when(elsewhere).then(pl.lit(ELSEWHERE)).otherwise(pl.lit(PREDICTOR))
    predicted = tables["predictions"].with_columns(rule=rule).select(columns)
    rules = tables["choice_rules"].filter(pl.col("rule").is_in(_BESIDE), factor_rule=BY_JUDGE).select(columns)
    rules = rules.join(predicted.select("layer"), on="layer", how="semi")
    weights = tables["predictor_weights"]
    order = weights.group_by("quantity").agg(by=pl.col("weight").mean())
    weights = weights.join(order, on="quantity").sort("by", "quantity", "layer", descending=[True, False, False]).drop("by")
    return pl.concat([pl.concat([predicted, rules]).sort("rule", "layer"), weights], how="diagonal").with_columns(confidence(options))


def draw(data: pl.DataFrame) -> Figure:
    """Scores on the left, weights on the right; a mark a layer that is predicted, from the others."""
    scores, weights = data.drop_nulls("rule"), data.drop_nulls("quantity")
    quantities = [RULES[name] for name in weights["quantity"].unique(maintain_order=True)]
    rules = [title for rule, title in _TITLES.items() if rule != ELSEWHERE or rule in scores["rule"]]
    mark = pl.format("layer {}", "layer")
    panels = [
        DotPanel(
            points(scores, "score", row=pl.col("rule").replace_strict(_TITLES), mark=mark),
            rules,
            "judge score of the pick (0–2)",
            title="how well the picked feature steers",
            empty="one layer: there is no other to learn from",
        ),
        DotPanel(
            points(weights, "weight", row=pl.col("quantity").replace_strict(RULES), mark=mark),
            quantities,
            "weight (judge score for 1 s.d.)",
            title="weights of the predictor",
            zero=0.0,
        ),
    ]
    height = 0.7 + 0.2 * max(6, (len(rules) + len(quantities)) // 2)
    figure = dot_figure(panels, layer_marks(data["layer"]), height, counts(data), "rule that picks", columns=1, spread=0.3)
    figure.axes[1].set_ylabel("quantity")
    return figure


counts = counted("n_concepts", "concepts", ". Bars: {level} intervals over concepts.")

FIGURE = FigureDefinition(
    position=170,
    tables=("predictions", "predictor_weights", "choice_rules"),
    caption="Top: held-out judge score of the feature that a ridge regression on all quantities picks, trained on the other layers, "
    "beside single quantities. Bottom: its weights, for one standard deviation of each quantity.",
    data=data,
    draw=draw,
    counts=counts,
)
