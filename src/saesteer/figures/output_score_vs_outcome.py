"""Does the output score foretell, feature by feature, how well steering works?"""

import polars as pl

from saesteer.analysis.metrics import correlations
from saesteer.core.markdown import with_interval
from saesteer.figures.definition import FigureDefinition, Options, Tables, constants, held_out
from saesteer.figures.style import PAGE, SMALLEST, Axes, Figure, PathCollection, empty_panel, layer_bar, new_figure, scatter_by_layer

LABELS = {
    "net_gen_success_20": "net success, {}\n(logit-lens tokens per text)",
    "gen_success_20": "GenSuccess@20, {}\n(logit-lens tokens per text)",
    "judge_score": "judge score, {}\n(harmonic mean, 0 to 2)",
}
TITLES = {
    "net_gen_success_20": "output score and net success",
    "gen_success_20": "output score and success",
    "judge_score": "output score and judge score",
}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """A row a feature and outcome, with the outcome's rank correlations, overall and within layers, repeated in each."""
    outcomes = tables["outcomes"].filter(rule=options.rule).sort("layer", "feature")
    parts = []
    for measure in LABELS:
        by_scope = correlations(outcomes, measure, options.selection)
        numbers = {f"{scope}_{name}": value for scope, result in by_scope.items() for name, value in result.items()}
        correlated = [pl.lit(value, pl.Int64 if name.endswith("_n") else pl.Float64).alias(name) for name, value in numbers.items()]
        points = outcomes.select(pl.lit(measure).alias("measure"), "layer", "feature", "output_score", pl.col(measure).alias("value"))
        parts.append(points.with_columns(*correlated, *constants(options)))
    return pl.concat(parts)


def panel(axes: Axes, points: pl.DataFrame, measure: str) -> PathCollection:
    """One outcome against the output score, its rank correlations above; returns the points, for a colour bar."""
    known = points.drop_nulls("value")
    drawn = scatter_by_layer(axes, known, "output_score", "value", points["layer"])
    if known.is_empty():
        empty_panel(axes, "no feature has a value")
    axes.set_xscale("symlog", linthresh=1e-3, linscale=0.4)
    axes.set_xlim(-2e-4, 1.15)
    axes.set_ylim(bottom=min(axes.get_ylim()[0], 0))
    axes.set_xlabel("output score (log above .001)")
    axes.set_ylabel(LABELS[measure].format(held_out(points, " ")))
    axes.set_title("\n".join([TITLES[measure], *(_rho(points, scope) for scope in ("overall", "within_layers"))]), fontsize=SMALLEST)
    return drawn


def _rho(points: pl.DataFrame, scope: str) -> str:
    row = points.row(0, named=True)
    rho, low, high = (row[f"{scope}_{name}"] for name in ("rho", "low", "high"))
    return f"Spearman {scope.replace('_', ' ')}: {'undefined' if rho is None else with_interval(rho, low, high)}"


def draw(data: pl.DataFrame) -> Figure:
    """Success net of unsteered texts beside P1's own; below, the judge score, where there is any."""
    measures = _measures(data)
    n_rows = len(measures) - 1
    figure = new_figure(PAGE, 0.4 + 3.4 * n_rows, counts(data))
    panels = list(figure.subplots(n_rows, 2, squeeze=False).ravel())
    while len(panels) > len(measures):
        panels.pop().remove()
    for axes, measure in zip(panels, measures, strict=True):
        drawn = panel(axes, data.filter(measure=measure), measure)
    layer_bar(figure, drawn, panels)
    return figure


def _measures(data: pl.DataFrame) -> list[str]:
    """The outcomes that are drawn: success in any case, the judge's where something was rated."""
    return [measure for measure in LABELS if measure != "judge_score" or data.filter(measure=measure)["value"].count()]


def counts(data: pl.DataFrame) -> str:
    """Features with each outcome, and those without a judge score."""
    known = {measure: data.filter(measure=measure)["value"].count() for measure in LABELS}
    n = data.height // len(LABELS)
    judged = known["judge_score"]
    net = "" if known["net_gen_success_20"] == n else f", {known['net_gen_success_20']} with unsteered texts"
    sides = f"; {judged} have a judge score, {n - judged} have none" if judged else "; none has a judge score"
    return f"n = {known['gen_success_20']} features{net}{sides}. Brackets: {data['confidence'][0]:.0%} intervals over features."


FIGURE = FigureDefinition(
    position=50,
    tables=("outcomes",),
    caption="Each point is a feature: its output score against what steering with it reaches: top logit-lens tokens "
    "written, net of the same prompts' unsteered texts (left) and as P1 counts them (right), and the judge score (below, where texts were "
    "rated: the harmonic mean of concept and fluency). The correlation within layers cannot come from depth.",
    data=data,
    draw=draw,
    counts=counts,
)
