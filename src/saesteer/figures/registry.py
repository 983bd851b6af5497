"""All figures, collected from their modules."""

from importlib import import_module
from types import ModuleType

import saesteer.figures
from saesteer.core.modules import declared
from saesteer.figures.definition import DefinedFigure
from saesteer.figures.style import styled


def in_order(package: ModuleType) -> dict[str, DefinedFigure]:
    """The figures of the modules of a package, by name, in the order of the report."""
    figures = {}
    for name, declaration in declared(package, "FIGURE").items():
        module = import_module(f"{package.__name__}.{name}")
        figures[name] = DefinedFigure(**vars(declaration), data=module.data, draw=styled(module.draw), counts=module.counts)
    return dict(sorted(figures.items(), key=lambda item: (item[1].position, item[0])))


FIGURES = in_order(saesteer.figures)
"""Name -> figure, in the order of the report."""
