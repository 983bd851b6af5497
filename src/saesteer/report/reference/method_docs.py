"""The documentation's table of the steering methods, from the registry."""

from saesteer.core.markdown import table
from saesteer.settings.registry import METHODS


def registry_markdown() -> str:
    """Every method of the registry: its paper, what it is given, what chooses, and the module that fits it."""
    rows = (
        [row.title, f"`{row.name}`", row.paper, ", ".join(row.needs), row.chosen_by, row.text_use, f"`{row.module}`"] for row in METHODS
    )
    return table(["method", "key", "from", "needs", "chosen by", "labelled texts", "module"], rows)
