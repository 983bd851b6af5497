"""The documentation's page of tables: every column with its type, its meaning and unit, and when it is null, from the schemas."""

from collections.abc import Iterable
from typing import Any

import polars as pl

from saesteer.core import tables
from saesteer.core.tables import RECORD, Column, Table
from saesteer.summaries.summary import summary_tables


def tables_markdown() -> str:
    """Every table on disk: those of steps, then summaries."""
    steps = tables.STEPS | tables.METHOD_STEPS
    fields = ", ".join(f"`{name}` ({_type(dtype)})" for name, dtype in RECORD.to_schema().items())
    of_steps, of_summaries = _sections(steps.values()), _sections(summary_tables().values())
    return f"## Tables of steps\n\n{of_steps}\nA record has {fields}.\n\n## Summaries\n\n{of_summaries}"


def _sections(several: Iterable[Table]) -> str:
    return "\n".join(_section(table) for table in several)


def _section(table: Table) -> str:
    rows = "".join(_row(name, column, name in table.keys) for name, column in table.columns.items())
    return f"### `{table.name}`\n\n| column | type | meaning | null when |\n|---|---|---|---|\n{rows}"


def _row(name: str, column: Column, is_key: bool) -> str:
    meaning, null_when = (text.replace("|", "or") for text in (column.meaning, column.null_when or ""))
    return f"| `{name}`{' (key)' if is_key else ''} | {_type(column.dtype)} | {meaning} | {null_when} |\n"


def _type(dtype: Any) -> str:
    if isinstance(dtype, pl.List):
        return "list of records" if dtype.inner == RECORD else f"list of {_type(dtype.inner)}"
    return str(dtype)
