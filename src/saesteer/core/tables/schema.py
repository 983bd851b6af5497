"""What a table is: columns with types and meanings, keys; checked whenever one is written or read."""

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


def interval(
    name: str, meaning: str, over: str, null_when: str | None = None, ends_null_when: str | None = None, ends: str | None = None
) -> dict[str, Column]:
    """A value and the ends of its bootstrap interval over what it is a mean of (saesteer.core.uncertainty.interval_columns): NAME, NAME_low
    and NAME_high. The ends are null as the value is unless `ends_null_when` says otherwise; `ends` is what their names begin with, where
    that is not NAME_."""
    begin, missing = f"{name}_" if ends is None else ends, ends_null_when or null_when
    return {
        name: Column(pl.Float64, meaning, null_when),
        f"{begin}low": Column(pl.Float64, f"lower end of its bootstrap interval over {over}", missing),
        f"{begin}high": Column(pl.Float64, "upper end", missing),
    }


@dataclass(frozen=True)
class Table:
    name: str
    keys: tuple[str, ...]
    columns: dict[str, Column]
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

    def columns_named(self, *names: str) -> dict[str, Column]:
        """Columns that another table takes over."""
        return {name: self.columns[name] for name in names}


def by_name(*tables: Table) -> dict[str, Table]:
    """Tables by their names."""
    return {table.name: table for table in tables}


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
    if values.dtype.is_float():
        bad["NaN or infinite"] = ~values.fill_null(0.0).is_finite()
    for what, mask in bad.items():
        if mask.any():
            raise TableError(
                f"{where}: table {table.name}: column {name} is {what} at {frame.select(table.keys).filter(mask).row(0, named=True)}"
            )


def write_summary(table: Table, frame: pl.DataFrame, path: Path) -> None:
    """Write a summary table: validated, sorted by its keys, atomically."""
    checked = validate(table, frame, str(path)).sort(table.keys)
    write_atomically(path, lambda partial: checked.write_parquet(partial, compression="zstd"))


def read_summary(table: Table, path: Path) -> pl.DataFrame:
    """Read a summary table and check it against its schema."""
    return validate(table, pl.read_parquet(path), str(path))
