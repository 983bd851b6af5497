"""All figures, collected from their modules."""

import importlib
import pkgutil
from types import ModuleType

import saesteer.figures
from saesteer.figures.definition import FigureDefinition


def collected(package: ModuleType) -> dict[str, FigureDefinition]:
    """The figures of the modules of a package, by name, in the order of the report."""
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "registry"]
    modules = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
    figures = {name: module.FIGURE for name, module in modules.items() if hasattr(module, "FIGURE")}
    return dict(sorted(figures.items(), key=lambda item: (item[1].position, item[0])))


FIGURES = collected(saesteer.figures)
