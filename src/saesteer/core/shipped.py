"""What comes with the package beside its modules: the workflow, its configuration and the small world."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "shipped"
SHIPPED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parents[1]
"""Their folder: in the installed package (pyproject.toml puts them there), and in a clone the repository."""
EXPERIMENTS = SHIPPED / "config/experiments"
"""The experiment files among them."""
