"""Panels of dots with intervals, a row a name: what most figures of the open questions are made of."""

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from saesteer.figures.style import BLACK, BLUE, GREY, MAGENTA, empty_panel

LOOKS = (("o", BLACK), ("D", MAGENTA), ("^", BLUE), ("s", GREY), ("v", "#009E73"))
"""Marker and colour of the first, second, ... of what is compared."""
LAYER_STYLES = ("-", "--", ":", "-.")


def dots(axes: Axes, rows: pl.DataFrame, value: str, places: pl.Series | np.ndarray, look: int, hollow: bool = False) -> None:
    """Values at heights, with the intervals NAME_low to NAME_high where there are any."""
    marker, colour = LOOKS[look % len(LOOKS)]
    ends = [f"{value}_{end}" if f"{value}_low" in rows.columns else value for end in ("low", "high")]
    columns = (rows[name].to_list() for name in (value, *ends))
    for place, middle, low, high in zip(np.asarray(places, dtype=float), *columns, strict=True):
        if middle is None:
            continue
        if low is not None and low < high:
            axes.hlines(place, low, high, color=colour, linewidth=1.2)
        axes.plot([middle], [place], marker, color=colour, markerfacecolor="white" if hollow else colour, markersize=4.5)


def named_rows(axes: Axes, names: list[str], axis_label: str, zero: float | None = None) -> None:
    """Names down the left, the first at the top; a line at the value that means nothing."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    if zero is not None:
        axes.axvline(zero, color=GREY, linewidth=0.8)
    axes.set_xlabel(axis_label)
    if not names:
        empty_panel(axes, "nothing to compare")


def dodged(number: int, n: int, width: float = 0.5) -> float:
    """Where the marks of the number-th of n things lie beside a row's middle."""
    return 0.0 if n < 2 else width * (number / (n - 1) - 0.5)


def legend(figure: Figure, names: dict[str, int], hollow: tuple[str, ...] = ()) -> None:
    """What each mark is, above the panels."""
    handles = []
    for name, look in names.items():
        marker, colour = LOOKS[look % len(LOOKS)]
        face = "white" if name in hollow else colour
        handles.append(Line2D([], [], linestyle="", label=name, marker=marker, color=colour, markerfacecolor=face))
    if handles:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(5, len(handles)))
