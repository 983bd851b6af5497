"""Digests of a table's rows: a row that is measured on another names its digest, so that the two are never read beside a different one.

A digest is over the values, not over a file: the same row has the same digest in whichever part, on whichever machine, and with
whichever version of a library it is read. Wall times are left out.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import polars as pl

from saesteer.core.tables import Table

DIGEST_DIGITS = 32
_NULL, _VALUE = b"\x00", b"\x01"


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
