"""What the modules of a package declare: a step, a summary, a figure a module, collected by the module's name."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any


def declared(package: ModuleType, name: str) -> dict[str, Any]:
    """Module -> its attribute `name`, of the modules of a package that have one."""
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    imported = {module: importlib.import_module(f"{package.__name__}.{module}") for module in modules}
    return {module: getattr(code, name) for module, code in imported.items() if hasattr(code, name)}
