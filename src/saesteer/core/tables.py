"""What a table on disk is: columns with dtypes, units and keys, checked whenever one is written or read.

A step's table is in its module of saesteer.steps, the table of features in saesteer.summaries.features_table, tables that are made of these
in saesteer.analysis.tables and saesteer.methods.compare.tables. A step's table has one row a key, so "is it computed?" is an anti-join on
the key columns; what belongs to a key in any number (max-activating examples of a feature, tokens of a generation) is a list in that row. A
column is nullable only where it says when it is null.

A row that is measured on another row names its digest, so that the two are never read beside a different one. A digest is over the values,
not over a file: the same row has the same digest in whichever part, on whichever machine, and with whichever version of a library it is
read. Wall times are left out.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.errors import SaesteerError
from saesteer.core.files import write_atomically

DIGEST_DIGITS = 32
_NULL, _VALUE = b"\x00", b"\x01"
"""Marks of a value in what a row's digest is made of."""


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
    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise TableError(f"{path} is damaged ({error}): delete it and run the workflow, which makes it again") from error
    return validate(table, frame, str(path))


def by_name(*tables: Table) -> dict[str, Table]:
    """Tables by their names."""
    return {table.name: table for table in tables}


def row_digests(table: Table, rows: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Each combination of `keys` (some of the table's) with the `digest` of all rows that have it."""
    names = [name for name, column in table.columns.items() if not column.is_wall_time]
    rows = rows.sort(table.keys)
    encoded = [b"".join(values) for values in zip(*(_encoded(rows[name]) for name in names), strict=True)]
    digests = rows.select(keys).with_columns(digest=pl.Series([_sha256(row) for row in encoded], dtype=pl.String))
    groups = digests.group_by(keys, maintain_order=True).agg("digest")
    return groups.with_columns(digest=pl.Series([combined(group) for group in groups["digest"].to_list()], dtype=pl.String))


def combined(digests: Sequence[str]) -> str:
    """One digest of several, which depends on their order."""
    return digests[0] if len(digests) == 1 else _sha256("".join(digests).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGEST_DIGITS]


def _encoded(values: pl.Series) -> list[bytes]:
    """The bytes of each value: a mark for null or not, lengths before what has one, numbers little-endian."""
    if isinstance(values.dtype, pl.List):
        return _encoded_lists(values)
    if isinstance(values.dtype, pl.Struct):
        fields = (_encoded(values.struct.field(field.name)) for field in values.dtype.fields)
        return [b"".join(row) for row in zip(*fields, strict=True)]
    if values.dtype in (pl.String, pl.Binary):
        texts = values.cast(pl.Binary)
        encoded = {value: _NULL if value is None else _with_length(value) for value in texts.unique()}  # tokens come again and again
        return [encoded[value] for value in texts.to_list()]
    width, data = _numbers(values.fill_null(0) if values.dtype.is_numeric() else values.fill_null(False))
    return [_NULL if missing else _VALUE + data[row * width : (row + 1) * width] for row, missing in enumerate(values.is_null())]


def _encoded_lists(values: pl.Series) -> list[bytes]:
    lengths = values.list.len()
    items = values.filter(lengths > 0).explode()
    ends = [0, *lengths.fill_null(0).cum_sum()]
    if items.dtype.is_numeric() and not items.null_count():
        width, data = _numbers(items)
        contents = [data[start * width : end * width] for start, end in pairwise(ends)]
    else:
        encoded = _encoded(items)
        contents = [b"".join(encoded[start:end]) for start, end in pairwise(ends)]
    counts = (None if length is None else length.to_bytes(8, "little") for length in lengths)
    return [_NULL if count is None else _VALUE + count + content for count, content in zip(counts, contents, strict=True)]


def _numbers(values: pl.Series) -> tuple[int, bytes]:
    """How many bytes a number takes, and those of all."""
    array = values.to_numpy()
    return array.dtype.itemsize, array.astype(array.dtype.newbyteorder("<")).tobytes()


def _with_length(value: bytes) -> bytes:
    return _VALUE + len(value).to_bytes(8, "little") + value
