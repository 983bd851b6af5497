"""Files of users, as editors, spreadsheets and other programs save them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from saesteer.core.errors import SettingsError


def text_of(path: Path) -> str:
    """What a file in UTF-8 says, without the byte-order mark that some programs put first; another encoding is refused."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text in UTF-8 (byte {error.start}): save it in that encoding") from error


READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": lambda path: pl.read_csv(text_of(path).encode(), infer_schema=False),
    ".jsonl": lambda path: pl.read_ndjson(text_of(path).encode()),
}
"""Ending of a table's file -> what reads it; a CSV's columns are all text."""


def table_of(path: Path) -> pl.DataFrame:
    """The table in a file of one of the READERS; one that is damaged, or of another kind, is refused."""
    if path.suffix not in READERS:
        raise SettingsError(f"{path}: tables are read from {', '.join(READERS)} files: save it as one of these")
    try:
        return READERS[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error


def refuse_missing(path: Path, table: pl.DataFrame, needed: Sequence[str]) -> None:
    """Refuse a table that lacks one of the columns."""
    if missing := [name for name in needed if name not in table.columns]:
        apart = "; separate its columns by commas" if any(";" in name for name in table.columns) else ""
        raise SettingsError(f"{path} has no column {' and no '.join(missing)}; it has {', '.join(table.columns)}{apart}")
