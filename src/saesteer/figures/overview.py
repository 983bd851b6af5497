"""The whole result on one page: panels of the other figures."""

from types import ModuleType

import polars as pl

from saesteer.analysis.best_factor import RULES
from saesteer.figures import by_factor, gen_success_by_threshold, input_vs_output, judge_kept_removed, output_score_vs_outcome, roles
from saesteer.figures.definition import FEW_NOTE, FigureDefinition, Options, Tables, held_out
from saesteer.figures.style import SMALLEST, Figure, layer_bar, new_figure

NET, GEN_SUCCESS = gen_success_by_threshold.LABELS
_PARTS = (roles, input_vs_output, output_score_vs_outcome, gen_success_by_threshold, by_factor, judge_kept_removed)


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The panels' data under one another; `figure` says whose a row is."""
    parts = [module.data(tables, options).with_columns(pl.lit(_name(module)).alias("figure")) for module in _PARTS]
    return pl.concat(parts, how="diagonal_relaxed")


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def draw(data: pl.DataFrame) -> Figure:
    """Six panels on an A4 page, lettered a to f; the last is the judge's, and left out where nothing was rated."""
    parts = {module: data.filter(figure=_name(module)) for module in _PARTS}
    figure = new_figure(11.69, 8.27, counts(data))  # A4, landscape
    panels = list(figure.subplots(2, 3).ravel())
    curves = parts[gen_success_by_threshold].filter(layers="all")
    success = NET if curves.filter(measure=NET)["mean"].count() else GEN_SUCCESS  # there may be no unsteered texts
    outcome = parts[output_score_vs_outcome].filter(measure=success)
    roles.panel(panels[0], parts[roles])
    points = input_vs_output.panel(panels[1], parts[input_vs_output])
    output_score_vs_outcome.panel(panels[2], outcome, success)
    if success == NET:
        gen_success_by_threshold.beside(panels[3], curves.filter(measure=GEN_SUCCESS))
    gen_success_by_threshold.panel(panels[3], curves.filter(measure=success), "success by threshold")
    gen_success_by_threshold.show_zero(panels[3], curves)
    by_factor.panel(panels[4], parts[by_factor], "gen_success_20")
    judged = parts[judge_kept_removed].filter(measure="judge_score")
    if judge_kept_removed.is_rated(judged):
        judge_kept_removed.panel(panels[5], judged, "judge score by threshold")
        panels[5].set_ylabel(f"mean judge score, {held_out(data, ' ')} (0 to 2)")
    else:
        panels.pop().remove()
    layer_bar(figure, points, panels[1:3])
    for panel, title in zip([panels[0], *panels[3:]], (None, None, "output score", None), strict=False):
        panel.legend(loc="best", title=title, title_fontsize=SMALLEST)
    for panel, letter in zip(panels, "abcdef", strict=False):
        panel.annotate(letter, (0, 1), (-34, 24), "axes fraction", "offset points", weight="bold", fontsize=11)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Features, kept and missing, and how intervals were made."""
    by_layer, curves = data.filter(figure="roles"), data.filter(figure="gen_success_by_threshold")
    judged = data.filter(figure="judge_kept_removed", measure="judge_score")
    headline = curves.filter(pl.col("is_headline"), layers="all", measure=GEN_SUCCESS).row(0, named=True)
    return (
        f"Factors by {RULES[headline['rule']]}. n = {by_layer['n'].sum()} features, "
        f"{by_layer['n_without_input_score'].sum()} without input score; {headline['n_kept']} are "
        f"kept at threshold {headline['threshold']:g}; {judged['n_missing'][0]} have no judge score. "
        f"Bands and brackets: {headline['confidence']:.0%} intervals over features, {FEW_NOTE}; (a): quartiles.{roles.norms_note(by_layer)}"
    )


FIGURE = FigureDefinition(
    position=10,
    tables=("features", "outcomes", "selection", "factor_bins"),
    caption="(a) Scores by layer. (b) The two scores of each feature. (c) Output score against success, net of unsteered texts. "
    "(d) The same against the filter's threshold, with random removal, and P1's own GenSuccess@20. (e) Success against steering factor by "
    "output score. (f) Judge score, kept and removed, where texts were rated.",
    data=data,
    draw=draw,
    counts=counts,
)
