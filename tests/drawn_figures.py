"""What every figure has to hold, however little there is to draw."""

import re

import polars as pl
from matplotlib.figure import Figure
from matplotlib.text import Text

from saesteer.figures.definition import FigureDefinition


def assert_drawn_and_told(definition: FigureDefinition, data: pl.DataFrame, figure: Figure) -> None:
    """There are axes, and a caption that says how to read them and of how many things they are."""
    assert figure.axes
    caption = definition.caption(data)
    assert caption.startswith(definition.reading)
    assert "n = " in caption
    assert "nan" not in caption.lower()
    assert "None" not in caption


def assert_labelled_and_inside(figure: Figure) -> None:
    """Every axis along the foot says what it shows, and no text is cut off at the figure's edge."""
    shown = [axes for axes in figure.axes if axes.axison]
    assert all(axes.get_xlabel() or axes.get_label() == "<colorbar>" for axes in shown)
    # Numbers at ticks outside the limits are not drawn, though they are there.
    ticks = {label for axes in shown for axis in (axes.xaxis, axes.yaxis) for label in axis.get_ticklabels(which="both")}
    numbers = {label for label in ticks if re.fullmatch(r"[−0-9.]+", label.get_text())}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in numbers:
            box = text.get_window_extent()
            assert box.x0 > -1, text
            assert box.y0 > -1, text
            assert box.x1 < figure.bbox.width + 1, text
            assert box.y1 < figure.bbox.height + 1, text
