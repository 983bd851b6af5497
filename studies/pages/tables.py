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
from saesteer.site.headline import with_interval

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
        return with_interval(value, rows[0][f"{name}_low"], rows[0][f"{name}_high"])
    return format(value, form)


def every(cell: Cell) -> Cell:
    """What a cell shows of each row, the rows apart by a slash."""
    return lambda rows: " / ".join(text_of(cell, [row]) for row in rows)


def beside(separator: str, *cells: Cell) -> Cell:
    """What several cells show, in one."""
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

    def markdown(self, root: Path) -> str:
        """The table."""
        rows = self.order(list(self.rows(root)))
        spread = [spread_column for heading, column in self.columns.items() for spread_column in _spread(rows, heading, column)]
        cells = ([text_of(cell, matching(line, where)) for _, cell, where in spread] for line in grouped(rows, self.lines).values())
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


def best_first(rows: Rows) -> Rows:
    """Rows of methods in the order of each method's mean score over its rows, largest first."""
    scores = {name: [row["score"] for row in group if row["score"] is not None] for (name,), group in grouped(rows, "method").items()}
    means = {name: statistics.fmean(group) if group else -math.inf for name, group in scores.items()}
    return sorted(rows, key=lambda row: (-means[row["method"]], row["method"]))
