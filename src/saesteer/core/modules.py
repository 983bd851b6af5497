"""What the modules of a package declare: a step, a summary, a figure a module, collected by the module's name."""

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any


def module_file(folder: Path, module: str) -> Path:
    """The file of a module, by its dotted name below a folder. A folder without an `__init__.py` is what an update leaves of a package that
    has become a module."""
    path = folder.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.is_file() else path.with_suffix(".py")


def modules_of(package: ModuleType) -> dict[str, ModuleType]:
    """The modules of a package, imported, by name."""
    return {module.name: importlib.import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)}


def declared(package: ModuleType, name: str) -> dict[str, Any]:
    """Module -> its attribute `name`, of the modules of a package that have one."""
    return {module: getattr(code, name) for module, code in modules_of(package).items() if hasattr(code, name)}
