"""Tables and numbers in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A table, without a line end after it."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in (header, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(header)}", *lines[1:]])


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def with_interval(row: Mapping[str, Any] | None, name: str) -> str:
    """A column of a row with its interval, NAME_low to NAME_high, where it has one; a dash where there is no row."""
    if row is None or row[name] is None:
        return number(None)
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return number(row[name]) + (f" [{number(low)}, {number(high)}]" if low is not None else "")


def escaped(text: str) -> str:
    """Text of a model as it is, on one line, not as Markdown."""
    return "".join("\\" + character if character in "\\`*_<>[]|#" else character for character in " ".join(text.split()))
