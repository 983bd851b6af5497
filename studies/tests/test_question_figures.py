"""The figures of the open questions: what is drawn is the data."""

from pathlib import Path

import numpy as np
import polars as pl
from drawn_figures import assert_labelled_and_inside, drawn, world
from matplotlib.axes import Axes

from saesteer.figures.save import save_drawing
from studies import ROOT
from studies.pages import schematic
from studies.questions.choice_rules import BY_JUDGE
from studies.questions.figures.choice_rules import TITLES


def dots_of(axes: Axes) -> set[tuple[str, float]]:
    """The name of the row and the value of every dot."""
    labels = axes.get_yticklabels() or axes.figure.axes[0].get_yticklabels()  # panels that share their rows
    names = [label.get_text() for label in labels]
    dots = [line for line in axes.lines if len(line.get_xdata()) == 1]
    return {(names[round(line.get_ydata()[0])], round(float(line.get_xdata()[0]), 9)) for line in dots}


def bars_of(axes: Axes) -> set[tuple[float, ...]]:
    """The ends of every bar."""
    segments = [path for collection in axes.collections for path in collection.get_segments()]
    return {tuple(np.round(np.asarray(path)[:, 0], 9).tolist()) for path in segments}


def rows_of(rows: pl.DataFrame, name: pl.Expr, *columns: str) -> tuple[set[tuple[str, float]], set[tuple[float, ...]]]:
    """The dots and the bars that columns of a figure's data are."""
    dots = {(label, round(value, 9)) for column in columns for label, value in rows.select(name, column).drop_nulls(column).rows()}
    ends = [(f"{column}_low", f"{column}_high") for column in columns if f"{column}_low" in rows.columns]
    bars = {tuple(np.round(bar, 9).tolist()) for pair in ends for bar in rows.select(pair).drop_nulls().rows() if bar[0] < bar[1]}
    return dots, bars


def test_dots_are_drawn_in_their_rows_at_their_values_with_their_intervals() -> None:
    rule = pl.col("rule").replace_strict(TITLES, default=pl.col("rule"))
    data, figure = drawn("choice_rules", world())
    dots, bars = rows_of(data, rule.alias("row"), "score")
    assert dots_of(figure.axes[0]) == dots
    assert bars_of(figure.axes[0]) == bars
    assert dots


def test_choice_rules_shows_the_judges_choice_of_factors_alone_and_a_mark_a_layer() -> None:
    data, figure = drawn("choice_rules", world())
    assert data["factor_rule"].unique().to_list() == [BY_JUDGE]
    dots = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert len({(line.get_marker(), line.get_color()) for line in dots}) == data["layer"].n_unique() == 8


def test_the_schematic_is_drawn_by_code(tmp_path: Path) -> None:
    """What docs/ holds is what the code draws now, and its text lies inside and is legible on a page."""
    figure = schematic.draw()
    pdf, _ = save_drawing(figure, tmp_path / "schematic")
    assert pdf.read_bytes() == (ROOT / "docs/schematic.pdf").read_bytes()
    figure.draw_without_rendering()
    assert_labelled_and_inside(figure)
    assert min(text.get_fontsize() for axes in figure.axes for text in axes.texts) >= 8
