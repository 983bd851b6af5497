"""Files of users, as editors, spreadsheets and other programs save them."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.errors import SettingsError
from saesteer.core.files import LARGEST_RATIO, regular_file

_SURROGATE = re.compile("[\ud800-\udfff]")
_SMALL = 2**20
"""Rows, or bytes of text, that any Parquet file may hold."""

Columns = Callable[[str], bool]
"""Whether a column of this name is read."""


def text_of(path: Path) -> str:
    """What a file in UTF-8 says, without the byte-order mark that some programs put first; another encoding is refused."""
    try:
        return regular_file(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text in UTF-8 (byte {error.start}): save it in that encoding") from error


def json_of(text: str | bytes, where: str, **options: Any) -> Any:
    """A JSON value, by options of json.loads; refused where an object has a key twice, of which some programs take the first, others the
    last."""
    try:
        return json.loads(text, object_pairs_hook=_object, **options)
    except RecursionError as error:
        raise SettingsError(f"{where}: it is no JSON: nested too deeply") from error
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    except ValueError as error:
        raise SettingsError(f"{where}: it is no JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise SettingsError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice: leave one out")
    return values


def _read_parquet(path: Path, is_read: Columns) -> pl.DataFrame:
    schema, size = pl.read_parquet_schema(path), path.stat().st_size
    for name, dtype in schema.items():
        if is_read(name) and (dtype.is_nested() or dtype == pl.Binary):
            raise SettingsError(f"{path}, column {name}: it has type {dtype}, but has to be text or numbers")
    rows = pl.scan_parquet(path)
    if (n_rows := rows.select(pl.len()).collect().item()) > max(size, _SMALL):
        raise SettingsError(f"{path} holds {n_rows:,} rows in {size:,} bytes, as no file of texts does, so it is not read")
    table = rows.select((pl.col(name) if is_read(name) else pl.lit(None).alias(name)).cast(pl.String) for name in schema).collect()
    if (n_bytes := sum(table[name].str.len_bytes().sum() for name in schema)) > LARGEST_RATIO * max(size, _SMALL):
        raise SettingsError(f"{path}: its texts have {n_bytes / 2**20:.0f} MiB, more than {LARGEST_RATIO} times its size: it is not used")
    return table


def _read_csv(path: Path, is_read: Columns) -> pl.DataFrame:
    """All columns, whether they are read or not."""
    text = text_of(path).lstrip("\r\n")
    names = pl.read_csv(text.encode(), has_header=False, n_rows=1, infer_schema=False, truncate_ragged_lines=True).row(0)
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise SettingsError(f"{path}, column {twice[0]}: the header names it twice: leave one out")
    try:
        return pl.read_csv(text.encode(), infer_schema=False)
    except pl.exceptions.ComputeError:
        for row, cells in enumerate(csv.reader(io.StringIO(text, newline=""))):
            if len(cells) > len(names):
                raise SettingsError(
                    f"{path} cannot be read: row {row} has {len(cells)} values, but the header names {len(names)} columns: put quotes"
                    " around a text that has a comma"
                ) from None
        raise


def _read_json_lines(path: Path, is_read: Columns) -> pl.DataFrame:
    """A column for each key of any row."""
    lines = (line for line in text_of(path).split("\n") if line.strip())
    rows = [_json_row(line, f"{path}, row {number}", is_read) for number, line in enumerate(lines, start=1)]
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame({name: [row.get(name) for row in rows] for name in names}, schema=dict.fromkeys(names, pl.String))


def _json_row(line: str, where: str, is_read: Columns) -> dict[str, str | None]:
    row = json_of(line, where, parse_int=str, parse_float=str, parse_constant=str)  # numbers as they are written
    if not isinstance(row, dict):
        raise SettingsError(f"{where}: it is no JSON object")
    said = {}
    for name, value in row.items():
        if isinstance(value, list | dict) and is_read(name):
            kind = "a list" if isinstance(value, list) else "an object"
            raise SettingsError(f"{where}, column {name}: it holds {kind}, but has to be text or a number")
        said[name] = ("false", "true")[value] if isinstance(value, bool) else value if is_read(name) else None
        if _SURROGATE.search(f"{name}{said[name]}"):
            raise SettingsError(f"{where}, column {name!r}: it has half of a surrogate pair, which is no character: write the whole one")
    return said


READERS: dict[str, Callable[[Path, Columns], pl.DataFrame]] = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_json_lines}
"""Ending of a table's file -> what reads it."""


def table_of(path: Path, is_read: Columns) -> pl.DataFrame:
    """The table in a file of one of the READERS, by the schema of all its rows: every column is text, numbers as the file spells them, and
    what a row lacks is null. Columns that are not read may hold anything, and be null. A file that is damaged, or of another kind, is
    refused."""
    if path.suffix not in READERS:
        raise SettingsError(f"{path}: tables are read from {', '.join(READERS)} files: save it as one of these")
    try:
        return READERS[path.suffix](regular_file(path), is_read)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def refuse_missing(path: Path, table: pl.DataFrame, needed: Sequence[str]) -> None:
    """Refuse a table that lacks one of the columns."""
    if missing := [name for name in needed if name not in table.columns]:
        apart = "; separate its columns by commas" if any(";" in name for name in table.columns) else ""
        raise SettingsError(f"{path} has no column {' and no '.join(missing)}; it has {', '.join(table.columns)}{apart}")
