"""What every figure has to hold, however little there is to draw."""

import polars as pl
from matplotlib.figure import Figure

from saesteer.figures.definition import FigureDefinition


def assert_drawn_and_told(definition: FigureDefinition, data: pl.DataFrame, figure: Figure) -> None:
    """There are axes, and a caption that says how to read them and of how many things they are."""
    assert figure.axes
    caption = definition.caption(data)
    assert caption.startswith(definition.reading)
    assert "n = " in caption
    assert "nan" not in caption.lower()
    assert "None" not in caption
