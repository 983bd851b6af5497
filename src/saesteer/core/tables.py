"""What a table on disk is: columns with dtypes, units and keys, checked whenever one is written or read.

A step's table is in its module of saesteer.steps, the table of features in saesteer.summaries.features_table, tables that are made of these
in saesteer.analysis.tables and saesteer.methods.compare.tables. A step's table has one row a key, so "is it computed?" is an anti-join on
the key columns; what belongs to a key in any number (max-activating examples of a feature, tokens of a generation) is a list in that row. A
column is nullable only where it says when it is null.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.errors import SaesteerError
from saesteer.core.files import write_atomically


class TableError(SaesteerError, ValueError):
    """A table that breaks its schema; the message names the table, the column and the first bad row."""


@dataclass(frozen=True)
class Column:
    dtype: Any  # a polars data type
    meaning: str
    null_when: str | None = None
    is_wall_time: bool = False
    """Differs each time the row is computed, and is no part of what is measured on the row."""

    @property
    def in_words(self) -> str:
        """What it holds, without what it means."""
        return f"{self.dtype}{', may be null' if self.null_when else ''}{', wall time' if self.is_wall_time else ''}"


@dataclass(frozen=True)
class Table:
    name: str
    keys: tuple[str, ...]
    columns: Mapping[str, Column]
    file: str = "tables/{name}.parquet"
    """Where a table lies, in the experiment's folder, that is computed afresh from others."""

    @property
    def path(self) -> str:
        return self.file.format(name=self.name)

    @property
    def schema(self) -> dict[str, Any]:
        return {name: column.dtype for name, column in self.columns.items()}

    @property
    def key_schema(self) -> dict[str, Any]:
        return {name: self.columns[name].dtype for name in self.keys}

    @property
    def in_words(self) -> dict[str, str]:
        """What each column holds, without what it means."""
        return {name: f"{column.in_words}{', key' if name in self.keys else ''}" for name, column in self.columns.items()}

    def some(self, *names: str) -> dict[str, Column]:
        """Some of its columns, for a table that has them too."""
        return {name: self.columns[name] for name in names}

    def of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Computed rows as the table has them: its columns first and in order, nulls where one is absent, integers and floats of its size.
        What does not fit otherwise is left for `validate`."""
        whole = rows.with_columns(pl.lit(None).alias(name) for name in self.columns if name not in rows.columns)
        typed = (pl.col(name).cast(dtype) if _fits(whole.schema[name], dtype) else name for name, dtype in self.schema.items())
        return whole.select(*typed, *(name for name in rows.columns if name not in self.columns))


LAYER = Column(pl.UInt16, "decoder layer, 0-based")
FEATURE = Column(pl.UInt32, "index of the feature in its layer's SAE")
FEATURE_KEYS = ("layer", "feature")
OF_FEATURE = {"layer": LAYER, "feature": FEATURE}


def _fits(given: Any, wanted: Any) -> bool:
    """Whether values of a dtype may be cast to another: nulls, integers to integers, floats to floats, also in lists."""
    if isinstance(given, pl.List) and isinstance(wanted, pl.List):
        return _fits(given.inner, wanted.inner)
    kinds = [kind() for kind in (given.is_integer, wanted.is_integer, given.is_float, wanted.is_float)]
    return bool(given == pl.Null or all(kinds[:2]) or all(kinds[2:]))


def validate(table: Table, frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """The frame with the schema's columns in order, or a TableError: columns, dtypes, nulls, NaN and duplicate keys are checked."""
    missing, unknown = set(table.columns) - set(frame.columns), set(frame.columns) - set(table.columns)
    if missing or unknown:
        raise TableError(
            f"{where}: table {table.name}: columns missing: {sorted(missing) or 'none'}; not in its schema: {sorted(unknown) or 'none'}"
        )
    frame = frame.select(list(table.columns))
    for name, column in table.columns.items():
        if frame.schema[name] != column.dtype:
            raise TableError(f"{where}: table {table.name}: column {name} has type {frame.schema[name]}, not {column.dtype}")
        _refuse_values(table, frame, name, where)
    repeated = frame.select(table.keys).is_duplicated()
    if repeated.any():
        raise TableError(f"{where}: table {table.name}: key given twice: {frame.select(table.keys).filter(repeated).row(0, named=True)}")
    return frame


def _refuse_values(table: Table, frame: pl.DataFrame, name: str, where: str) -> None:
    values = frame[name]
    bad = {}
    if table.columns[name].null_when is None:
        bad["null"] = values.is_null()
    if isinstance(values.dtype, pl.List) and isinstance(values.dtype.inner, pl.Struct):
        (number,) = (field.name for field in values.dtype.inner.fields if field.dtype.is_float())
        values = values.list.eval(pl.element().struct.field(number))
    if isinstance(values.dtype, pl.List) and values.dtype.inner.is_float():
        values = values.list.sum()  # which is finite where all are
    if values.dtype.is_float():
        bad["NaN or infinite"] = ~values.fill_null(0.0).is_finite()
    for what, mask in bad.items():
        if mask.any():
            raise TableError(
                f"{where}: table {table.name}: column {name} is {what} at {frame.select(table.keys).filter(mask).row(0, named=True)}"
            )


def write_summary(table: Table, frame: pl.DataFrame, path: Path) -> None:
    """Write a table that is computed afresh: validated, sorted by its keys, atomically."""
    checked = validate(table, frame, str(path)).sort(table.keys)
    write_atomically(path, lambda partial: checked.write_parquet(partial, compression="zstd"))


def read_summary(table: Table, path: Path) -> pl.DataFrame:
    """Read a table that is computed afresh, and check it against its schema."""
    return validate(table, pl.read_parquet(path), str(path))


def by_name(*tables: Table) -> dict[str, Table]:
    """Tables by their names."""
    return {table.name: table for table in tables}
