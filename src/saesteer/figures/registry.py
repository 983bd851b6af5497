"""All figures, collected from their modules."""

from dataclasses import replace

import saesteer.figures
from saesteer.core.modules import declared
from saesteer.figures.definition import FigureDefinition
from saesteer.figures.style import styled

_DECLARED: dict[str, FigureDefinition] = declared(saesteer.figures, "FIGURE")
FIGURES = {
    name: replace(_DECLARED[name], draw=styled(_DECLARED[name].draw))
    for name in sorted(_DECLARED, key=lambda name: _DECLARED[name].position)
}
"""Name -> figure, in the order of the report."""
