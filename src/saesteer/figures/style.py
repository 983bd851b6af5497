"""The look of every figure: fonts embedded as text, a palette that colour-blind readers and grey printers can tell apart."""

import functools
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
else:  # the dry run imports the modules of figures, and has no use for matplotlib
    Axes = Figure = Line2D = ListedColormap = PathCollection = Any

P = ParamSpec("P")

BLUE = "#0072B2"
MAGENTA = "#C51B7D"
GREY = "#6E6E6E"
BLACK = "#222222"
PAGE = 6.8  # inches: the width of a printed page, and of a figure that is to be read there
SMALLEST = 8.0
"""Points: no text is smaller where a figure is printed at its width."""
_DIGIT = 5.1  # points: the width of a digit of SMALLEST
_CHARACTER = 4.5  # points: the mean width of a character of SMALLEST, with some room
_BAND_ALPHA = 0.2

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,  # lines behind a legend do not cross its words
    "legend.fontsize": SMALLEST,
    "xtick.labelsize": SMALLEST,
    "ytick.labelsize": SMALLEST,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "text.hinting": "none",  # so that text is as wide in a PNG as it is measured
    "svg.hashsalt": "saesteer",
    "savefig.dpi": 200,
}


@contextmanager
def in_style() -> Iterator[None]:
    """matplotlib with the style of all figures and its own defaults, whatever a user has set in a matplotlibrc."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator of functions that draw: in the style of all figures, and `drawable` texts only."""

    @functools.wraps(draw)
    def draw_in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        from matplotlib.text import Text

        with in_style():
            figure = draw(*args, **kwargs)
            for text in figure.findobj(Text):
                text.set_text(drawable(text.get_text()))
        return figure

    return draw_in_style


@functools.cache
def part_of_colours(name: str, first: float, last: float) -> ListedColormap:
    """A colour map of matplotlib's without its ends, which are too pale or too dark."""
    import matplotlib

    return matplotlib.colors.ListedColormap(matplotlib.colormaps[name](np.linspace(first, last, 256)))


def dark_viridis() -> ListedColormap:
    """Viridis without its brightest colours, which are too pale in print."""
    return part_of_colours("viridis", 0.0, 0.9)


def new_figure(width: float, height: float, note: str) -> Figure:
    """An empty figure, in inches, with a note at its foot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    lines = [textwrap.fill(line, int((width - 0.2) * 72 / _CHARACTER)) for line in note.split("\n")]
    figure.supxlabel("\n".join(lines), fontsize=SMALLEST, color=GREY, x=0.01, ha="left", parse_math=False)
    return figure


def legend_above(figure: Figure, handles: Sequence[Any], *, columns: int, **look: Any) -> None:
    """A legend above the panels, in as many columns as fit."""
    labels = [str(handle.get_label()) for handle in handles]
    column = max((len(label) for label in labels), default=0) * _CHARACTER + 45  # points: text, marker and gaps
    fitting = max(1, int(figure.get_figwidth() * 72 / column))
    figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, fitting), **look)


def with_ends(column: str) -> tuple[str, str, str]:
    """Names of a quantity's column and of its interval's ends."""
    return column, f"{column}_low", f"{column}_high"


def band(axes: Axes, x: np.ndarray, rows: pl.DataFrame, columns: tuple[str, str, str], colour: object, label: str, marker: str) -> None:
    """A line with a shaded interval, of the `columns` middle, low and high; gaps where values are missing, and a bar where a point has no
    neighbour to shade towards."""
    middle, low, high = (rows[column].cast(pl.Float64).to_numpy() for column in columns)
    axes.plot(x, middle, color=colour, marker=marker, label=label, zorder=3)
    axes.fill_between(x, low, high, color=colour, alpha=_BAND_ALPHA, linewidth=0)
    known = np.isfinite(low)
    neighbours = np.append(known[1:], False) | np.insert(known[:-1], 0, False)
    alone = known & ~neighbours
    axes.vlines(x[alone], low[alone], high[alone], color=colour, linewidth=1)


def threshold_axis(axes: Axes, thresholds: Sequence[float], n_kept: Sequence[int], title: str) -> None:
    """Thresholds at even distances, for they span many orders of magnitude, how many features each keeps above the panel, and its title."""
    positions = np.arange(len(thresholds))
    axes.set_xticks(positions, [threshold_label(threshold) for threshold in thresholds], rotation=60, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(thresholds) - 0.5)
    axes.set_xlabel("features kept: output score ≥")
    axes.set_title(title, pad=row_above(axes, positions, n_kept))


def threshold_label(threshold: float) -> str:
    """A threshold in few characters: "all" for 0, small powers of ten as powers."""
    if threshold == 0:
        return "all"
    exponent = np.log10(threshold)
    is_small_power = threshold < 0.001 and abs(exponent - round(exponent)) < 1e-9
    return f"$10^{{{round(exponent)}}}$" if is_small_power else f"{threshold:g}"


def layers_title(curve: pl.DataFrame) -> str:
    """What a panel calls its set of layers."""
    return "all layers" if curve["layers"][0] == "all" else f"late layers (from {curve['first_layer'][0]})"


def by_layer_set(rows: Sequence[pl.DataFrame], panel: Callable[[Axes, pl.DataFrame, str], None], note: str, legend_columns: int) -> Figure:
    """A panel a set of layers in each row, which has one vertical axis; one legend."""
    figure = new_figure(PAGE, 0.8 + 3.2 * len(rows), note)
    curves = [data.partition_by("layers", maintain_order=True) for data in rows]
    panels = figure.subplots(len(rows), len(curves[0]), sharey="row", squeeze=False)
    for row, of_row in zip(panels, curves, strict=True):
        for axes, curve in zip(row, of_row, strict=True):
            panel(axes, curve, layers_title(curve))
        row[1].set_ylabel("")
    legend_above(figure, panels[0][0].get_legend_handles_labels()[0], columns=legend_columns)
    return figure


def row_above(
    axes: Axes, positions: Sequence[float] | np.ndarray, numbers: Sequence[int], height: float = 6.0, colour: str = GREY
) -> float:
    """Sample sizes in a row above the panel, at a height in points, in its x coordinates; an n goes left of them. Where they are too wide
    to stand beside one another they are turned, and where they are too many some are left out. Returns the height above them."""
    grid = axes.get_subplotspec()
    columns = grid.get_gridspec().ncols if grid else 1
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = figure.get_figwidth() * 72 * 0.75 / columns / max(1, len(numbers))  # points for each number
    width = max((len(str(number)) for number in numbers), default=0) * _DIGIT
    turned = width + 2 > room
    every = int(np.ceil(SMALLEST * 1.2 / room))
    place: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "color": colour, "fontsize": SMALLEST}
    look: dict[str, Any] = {"ha": "center", "rotation": 90 if turned else 0}
    for position, number in list(zip(positions, numbers, strict=True))[::every]:
        axes.annotate(str(number), (position, 1), (0, height), axes.get_xaxis_transform(), **look, **place)
    axes.annotate("n", (0, 1), (-4, height), "axes fraction", ha="right", **place)
    return height + (width if turned else SMALLEST) + 5


_CONTROL = re.compile(r"<0x0[AD]>|[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Line breaks, also as bytes that a tokenizer writes so, and other control characters."""


def visible(text: str) -> str:
    """The text with a sign in place of each line break or other control character, and else as `drawable`."""
    return drawable(_CONTROL.sub("⏎", text))


def drawable(text: str) -> str:
    """The text with each character that the font lacks, such as a Chinese one, as its number (\\u4e2d), so that every machine draws the
    same; and without byte-order marks, at which matplotlib's PDF breaks off."""
    characters = text.replace("\ufeff", "")
    return "".join(one if one == "\n" or ord(one) in _drawn() else one.encode("unicode_escape").decode() for one in characters)


@functools.cache
def _drawn() -> frozenset[int]:
    """The characters that the figures' font has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties(family=str(STYLE["font.family"])))).get_charmap())


def empty_panel(axes: Axes, message: str) -> None:
    """Say why a panel shows nothing."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=GREY)


def no_ratings(axes: Axes) -> None:
    """Say it in a panel of ratings."""
    empty_panel(axes, "no ratings: the page “Judges”\nsays how to add a judge")


def scatter_by_layer(axes: Axes, points: pl.DataFrame, x: str, y: str, layers: pl.Series) -> PathCollection:
    """A point a row, coloured by its layer on the scale of `layers`; one layer alone is dark."""
    from matplotlib.colors import Normalize

    numbers = layers.to_list() or [0]
    norm = Normalize(min(numbers), max(max(numbers), min(numbers) + 1))
    colours = points["layer"].to_list()
    return axes.scatter(points[x], points[y], c=colours, cmap=dark_viridis(), norm=norm, s=14, alpha=0.85, linewidths=0)


def layer_bar(figure: Figure, points: PathCollection, panels: Axes | Sequence[Axes] | np.ndarray) -> None:
    """The colour scale of layers beside the panels."""
    from matplotlib.ticker import MaxNLocator

    figure.colorbar(points, ax=panels, label="layer", shrink=0.8, ticks=MaxNLocator(integer=True))


def legend_entry(label: str, colour: str, **look: Any) -> Line2D:
    """An entry of a legend: a marker without a line, unless told otherwise."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"linestyle": "", "color": colour, "label": label, **look})


@dataclass(frozen=True)
class Look:
    """A colour and a marker, apart from others for colour-blind readers and grey printers."""

    colour: str
    marker: str


LOOKS = {
    "Controls": Look(GREY, "x"),
    "Prompt": Look(BLACK, "*"),
    "Trained weights": Look("#D55E00", "s"),
    "Vectors": Look("#009E73", "^"),
    "SAE features": Look(BLUE, "o"),
    "Effects of steering": Look(MAGENTA, "D"),
    "From elsewhere": Look("#E69F00", "P"),
}
"""By the families of saesteer.methods.compare.means, in the order in which they are shown."""


def method_point(axes: Axes, row: Mapping[str, Any], x: str, y: str, *, size: int, alpha: float) -> None:
    """A method's numbers x and y as a point in the look of its family, with their intervals where these are known."""
    look = LOOKS[row["family"]]
    if row[f"{y}_low"] is not None:
        axes.vlines(row[x], row[f"{y}_low"], row[f"{y}_high"], color=look.colour, linewidth=0.6, alpha=alpha)
    if row[f"{x}_low"] is not None:
        axes.hlines(row[y], row[f"{x}_low"], row[f"{x}_high"], color=look.colour, linewidth=0.6, alpha=alpha)
    axes.plot([row[x]], [row[y]], look.marker, color=look.colour, markersize=size, label=row["method"])


def families_in(data: pl.DataFrame) -> list[str]:
    """The families that a table holds, in the order in which they are shown."""
    present = set(data["family"])
    return [family for family in LOOKS if family in present]


def family_legend(figure: Figure, data: pl.DataFrame, label: str, colour: str, **look: Any) -> None:
    """The legend of the families in the data, and of a line."""
    families = [legend_entry(family, LOOKS[family].colour, marker=LOOKS[family].marker, markersize=6) for family in families_in(data)]
    legend_above(figure, [*families, legend_entry(label, colour, **look)], columns=4)
