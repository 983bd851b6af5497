"""Data for a page that is opened from disk, where a browser forbids `fetch`: script files, each of which hands over one JSON value.

Texts in them were written by models and by strangers. They stay data: nothing in a piece can end a script element, open a comment or be
read as anything but a value, and the page's own code never turns a text into markup.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from saesteer.core.files import confined

PIECE = 1 << 18
"""Characters after which a new piece is begun."""
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_DIGITS = 6


def as_json(value: Any) -> str:
    """A value as JSON that is safe inside a script, whatever its texts say."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def write_piece(folder: Path, name: str, json_text: str) -> None:
    """Write the script file of a piece: data/NAME.js, which calls the page's `saesteer.piece`."""
    path = folder / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"saesteer.piece({as_json(name)},{json_text});\n", encoding="utf-8")


def read_piece(folder: Path, name: str) -> str | None:
    """The JSON of a piece; None where there is no piece of the name."""
    path = confined(folder, f"data/{name}.js")
    if path is None or not path.is_file():
        return None
    start, text = f"saesteer.piece({as_json(name)},", path.read_text(encoding="utf-8", errors="replace")
    return text.removeprefix(start).removesuffix(");\n") if text.startswith(start) else None


def write_list(folder: Path, stem: str, values: Iterable[Any]) -> list[int]:
    """Write a long list in pieces STEM/0, STEM/1, ... of about PIECE characters; gives the place in the list at which each begins."""
    starts, size, n = [0], 0, 0
    waiting: list[str] = []
    for value in values:
        text = as_json(value)
        if waiting and size + len(text) > PIECE:
            write_piece(folder, f"{stem}/{len(starts) - 1}", f"[{','.join(waiting)}]")
            starts, waiting, size = [*starts, n], [], 0
        waiting.append(text)
        size, n = size + len(text), n + 1
    write_piece(folder, f"{stem}/{len(starts) - 1}", f"[{','.join(waiting)}]")
    return starts


def packed(values: pl.Series) -> str:
    """Numbers as base64 of their bytes, least significant first: Float32, NaN where there is none, or UInt32."""
    filled, kind = (values.fill_null(float("nan")), "<f4") if values.dtype == pl.Float32 else (values, "<u4")
    return base64.b64encode(np.ascontiguousarray(filled.to_numpy(), dtype=kind).tobytes()).decode()


def shortened(frame: pl.DataFrame) -> pl.DataFrame:
    """A table with its floats to six significant digits: what a page shows has fewer."""
    return frame.with_columns(cs.float().cast(pl.Float64).round_sig_figs(_DIGITS))


def as_rows(frame: pl.DataFrame | None) -> dict[str, Any] | None:
    """A table as its columns' names and its rows."""
    return None if frame is None else {"columns": frame.columns, "rows": shortened(frame).rows()}


def grouped(frame: pl.DataFrame) -> dict[Any, list[tuple[Any, ...]]]:
    """Value of the first column -> its rows, in the table's order, without that column."""
    by_key: dict[Any, list[tuple[Any, ...]]] = {}
    for key, *row in shortened(frame).rows():
        by_key.setdefault(key, []).append(tuple(row))
    return by_key
