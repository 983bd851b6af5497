"""How families of steering methods look in every figure: a colour and a marker each, apart for colour-blind readers and grey printers."""

from dataclasses import dataclass

import polars as pl
from matplotlib.lines import Line2D

from saesteer.figures.style import BLACK, BLUE, GREY, MAGENTA


@dataclass(frozen=True)
class Look:
    colour: str
    marker: str


LOOKS = {
    "Controls": Look(GREY, "x"),
    "Prompt": Look(BLACK, "*"),
    "Trained weights": Look("#D55E00", "s"),
    "Vectors": Look("#009E73", "^"),
    "SAE features": Look(BLUE, "o"),
    "Effects of steering": Look(MAGENTA, "D"),
}
"""By the families of saesteer.methods.compare.means, in the order in which they are shown."""


def families_in(data: pl.DataFrame) -> list[str]:
    """The families that a table holds, in the order in which they are shown."""
    present = set(data["family"])
    return [family for family in LOOKS if family in present]


def family_handles(data: pl.DataFrame) -> list[Line2D]:
    """The legend's entries of the families in the data."""
    looks = [(family, LOOKS[family]) for family in families_in(data)]
    return [Line2D([], [], color=look.colour, marker=look.marker, linestyle="", markersize=6, label=family) for family, look in looks]


def n_of(sizes: pl.Series) -> str:
    """How many concepts stand behind the numbers of a figure: one n, or the fewest and the most."""
    fewest, most = (int(size) for size in (sizes.to_numpy().min(), sizes.to_numpy().max()))
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
