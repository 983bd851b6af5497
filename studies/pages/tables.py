"""A table of a page as data: headings, and what the cells below them show of the rows of their line."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from saesteer.core.markdown import number, table

Row = Mapping[str, Any]
Rows = Sequence[Row]
Cell = str | Callable[[Rows], str]
"""What stands in a cell: "NAME", the value of its first row; "NAME FORMAT", that in a format of Python's; "NAME .N", rounded to N digits;
"NAME ±", with its interval (NAME_low to NAME_high); a dash where there is none. Or a function."""
Column = Cell | tuple[Cell, Mapping[str, Any]]
"""A cell, of all rows of a line or of those with the given values."""


def text_of(cell: Cell, rows: Rows) -> str:
    """What a cell shows of rows."""
    if not isinstance(cell, str):
        return cell(rows)
    name, _, form = cell.partition(" ")
    value = rows[0][name] if rows else None
    if value is None:
        return number(None)
    if re.fullmatch(r"\.\d", form):
        return number(value, int(form[1:]))
    if form == "±":
        low, high = (rows[0][f"{name}_{end}"] for end in ("low", "high"))
        return number(value) + (f" [{number(low)}, {number(high)}]" if low is not None else "")
    return format(value, form)


def last(cell: Cell) -> Cell:
    """The same of the last row."""
    return lambda rows: text_of(cell, rows[-1:])


def every(cell: Cell, separator: str = " / ") -> Cell:
    """The same of each row."""
    return lambda rows: separator.join(text_of(cell, [row]) for row in rows)


def beside(separator: str, *cells: Cell) -> Cell:
    """Several in one."""
    return lambda rows: separator.join(text_of(cell, rows) for cell in cells)


@dataclass(frozen=True)
class Shown:
    """A table of a page."""

    rows: Callable[[Path], Iterable[Row]]
    """Of the repository's root."""
    lines: str
    """Names of columns: a line for each of their values, in the order of the rows."""
    columns: Mapping[str, Column]
    """By heading. One that names columns in braces stands for a column for each of their values, of which the last named varies slowest."""
    order: Callable[[Rows], Rows] = list
    note: Callable[[Rows], str] | None = None
    """What stands below."""

    def markdown(self, root: Path) -> str:
        """The table, and the note."""
        rows = list(self.rows(root))
        text = markdown(self.order(rows), self.lines, self.columns)
        return f"{text}\n\n{self.note(rows)}" if self.note else text


def markdown(rows: Rows, lines: str, columns: Mapping[str, Column]) -> str:
    """Columns of rows, a line for each value of the columns `lines`."""
    spread = [spread_column for heading, column in columns.items() for spread_column in _spread(rows, heading, column)]
    cells = ([text_of(cell, matching(line, where)) for _, cell, where in spread] for line in grouped(rows, lines).values())
    return table([heading for heading, *_ in spread], cells)


def _spread(rows: Rows, heading: str, column: Column) -> Iterator[tuple[str, Cell, Mapping[str, Any]]]:
    """Heading, cell and the values of its rows, of the one column or of each that it stands for."""
    cell, where = column if isinstance(column, tuple) else (column, {})
    names = re.findall(r"\{(\w+)\}", heading)[::-1]
    for values in product(*(sorted({row[name] for row in rows}) for name in names)):
        key = dict(zip(names, values, strict=True))
        yield heading.format(**key), cell, {**where, **key}


def grouped(rows: Iterable[Row], names: str) -> dict[tuple[Any, ...], list[Row]]:
    """Values of the columns -> their rows, in the order of the rows."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names.split()), []).append(row)
    return groups


def matching(rows: Iterable[Row], where: Mapping[str, Any]) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in where.items())]


def best_first(key: str, by: str, **where: Any) -> Callable[[Rows], Rows]:
    """Orders rows by the mean of a column over those of the same key, largest first; means are over the rows with the values `where`, and
    keys without such rows are left out."""

    def order(rows: Rows) -> Rows:
        values = {name: [row[by] for row in group if row[by] is not None] for (name,), group in grouped(matching(rows, where), key).items()}
        means = {name: statistics.fmean(group) if group else -math.inf for name, group in values.items()}
        return sorted((row for row in rows if row[key] in means), key=lambda row: (-means[row[key]], row[key]))

    return order
