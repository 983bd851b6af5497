"""All figures, collected from their modules."""

from dataclasses import replace
from types import ModuleType

import saesteer.figures
from saesteer.core.modules import declared
from saesteer.figures.definition import FigureDefinition
from saesteer.figures.style import styled


def in_order(package: ModuleType) -> dict[str, FigureDefinition]:
    """The figures of the modules of a package, by name, in the order of the report."""
    figures = {name: replace(figure, draw=styled(figure.draw)) for name, figure in declared(package, "FIGURE").items()}
    return dict(sorted(figures.items(), key=lambda item: (item[1].position, item[0])))


FIGURES = in_order(saesteer.figures)
"""Name -> figure, in the order of the report."""
