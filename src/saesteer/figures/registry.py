"""All figures, collected from their modules."""

import importlib
import pkgutil

import saesteer.figures
from saesteer.figures.definition import FigureDefinition


def _collected() -> dict[str, FigureDefinition]:
    names = [module.name for module in pkgutil.iter_modules(saesteer.figures.__path__) if module.name != "registry"]
    modules = {name: importlib.import_module(f"saesteer.figures.{name}") for name in names}
    figures = {name: module.FIGURE for name, module in modules.items() if hasattr(module, "FIGURE")}
    return dict(sorted(figures.items(), key=lambda item: (item[1].position, item[0])))


FIGURES = _collected()
"""Name -> figure, in the order of the report."""
