"""The documentation's page of tables: every column with its type, its meaning and unit, and when it is null, from the schemas."""

from typing import Any

import polars as pl

from saesteer.core.markdown import table
from saesteer.core.tables import METHOD_STEPS, RECORD, STEPS, Table
from saesteer.summaries.summary import summary_tables


def tables_markdown() -> str:
    """Every table on disk: those of steps, then summaries."""
    steps, summaries = ("\n".join(map(_section, several.values())) for several in (STEPS | METHOD_STEPS, summary_tables()))
    fields = ", ".join(f"`{name}` ({_type(dtype)})" for name, dtype in RECORD.to_schema().items())
    return f"## Tables of steps\n\n{steps}\nA record has {fields}.\n\n## Summaries\n\n{summaries}"


def _section(shown: Table) -> str:
    rows = (
        (
            f"`{name}`{' (key)' if name in shown.keys else ''}",
            _type(column.dtype),
            column.meaning.replace("|", "or"),
            (column.null_when or "").replace("|", "or"),
        )
        for name, column in shown.columns.items()
    )
    return f"### `{shown.name}`\n\n{table(('column', 'type', 'meaning', 'null when'), rows)}\n"


def _type(dtype: Any) -> str:
    if isinstance(dtype, pl.List):
        return "list of records" if dtype.inner == RECORD else f"list of {_type(dtype.inner)}"
    return str(dtype)
