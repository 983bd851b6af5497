"""What P1's filter gains in every kept run, under P1's rule for the factor and under the cap."""

import polars as pl

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.metrics import MIN_RATIO
from saesteer.figures.definition import n_of
from saesteer.figures.style import GREY, Figure, styled
from studies.questions.figures.dots import DotPanel, dot_figure, marks_of, points

_SHOWN = {"ratio": "all features", "within": "within layers"}


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A panel a rule, a row a run (`studies.pages.findings.gains`); a line where nothing is gained, and at the rule's limit."""
    runs, marks = data["label"].unique(maintain_order=True).to_list(), marks_of(list(_SHOWN.values()))
    panels = []
    for rule, title in RULES.items():
        rows = data.filter(rule=rule)
        ratios = pl.concat(points(rows, column, row=pl.col("label"), mark=mark) for column, mark in _SHOWN.items())
        panels.append(DotPanel(ratios, runs, "GenSuccess@20: kept / all, times", zero=1.0, title=f"factor by {title}"))
    note = (
        f"{n_of(data['n_kept'])} of {n_of(data['n'])} features kept. Bars: 95% intervals over features. Dotted: the rule's {MIN_RATIO:g}."
    )
    figure = dot_figure(panels, marks, 0.8 + 0.34 * len(runs), note, "", spread=0.3, sharey=True)
    for axes in figure.axes:
        axes.axvline(MIN_RATIO, color=GREY, linewidth=0.8, linestyle=":")
    return figure
