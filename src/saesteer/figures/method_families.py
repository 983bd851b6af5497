"""How families of steering methods look in every figure: a colour and a marker each, apart for colour-blind readers and grey printers."""

from dataclasses import dataclass

import polars as pl

from saesteer.figures.style import BLACK, BLUE, GREY, MAGENTA, Line2D, legend_entry


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
    "From elsewhere": Look("#E69F00", "P"),
}
"""By the families of saesteer.methods.compare.means, in the order in which they are shown."""


def families_in(data: pl.DataFrame) -> list[str]:
    """The families that a table holds, in the order in which they are shown."""
    present = set(data["family"])
    return [family for family in LOOKS if family in present]


def family_handles(data: pl.DataFrame) -> list[Line2D]:
    """The legend's entries of the families in the data."""
    return [legend_entry(family, LOOKS[family].colour, marker=LOOKS[family].marker, markersize=6) for family in families_in(data)]
