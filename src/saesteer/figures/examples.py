"""A table of example features: scores, top logit-lens tokens, the text they fire on most, and what steering with them writes."""

import functools
from typing import Any

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables
from saesteer.figures.style import BLACK, GREY, MAGENTA, Figure, visible

# Title and width in inches of each column.
_COLUMNS = {
    "layer/feature": 0.8,
    "input | output\nscore": 0.85,
    "concept": 0.8,
    "top logit-lens tokens": 2.1,
    "text with its largest activation": 2.5,
    "factor": 0.5,
    "unsteered": 2.2,
    "steered": 2.2,
}
_GAP = 0.12  # inches between columns
_LINE = 0.135  # inches
_MARGIN = 0.15
_N_LENS = 10


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The examples, those with the highest output score first."""
    return tables["examples"].sort("output_score", "layer", "feature", descending=[True, False, False])


def _cells(row: dict[str, Any]) -> list[str]:
    scores = f"{'–' if row['input_score'] is None else format(row['input_score'], '.2f')} | {row['output_score']:.3f}"
    lens = ", ".join(visible(token.replace("▁", "").strip(" ")) or "␣" for token in row["top_logit_lens_tokens"][:_N_LENS])
    prefix = row["prefix"]
    steered = "steering failed" if row["steered"] is None else visible(f"{prefix} {row['steered'].strip(' ')}")
    context = visible(row["top_context"] or "no max-activating examples")
    unsteered = visible(f"{prefix} {row['unsteered'].strip(' ')}")
    name = f"{row['layer']}/{row['feature']}"
    return [name, scores, row["concept"] or "–", lens, context, row["factor"] or "–", unsteered, steered]


def draw(data: pl.DataFrame) -> Figure:
    """The table, its cells wrapped to their columns."""
    from matplotlib.figure import Figure

    wrapped = [
        [_wrapped(cell, width) for cell, width in zip(_cells(row), _COLUMNS.values(), strict=True)] for row in data.iter_rows(named=True)
    ]
    heights = [max(cell.count("\n") + 1 for cell in row) * _LINE + 0.1 for row in wrapped]
    width, height = sum(_COLUMNS.values()) + 2 * _MARGIN, sum(heights) + 0.8
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _write_row(axes, list(_COLUMNS), _MARGIN, weight="bold")
    pages = data["page"].to_list()
    top = _MARGIN + 0.32
    for row, row_height, page in zip(wrapped, heights, pages, strict=True):
        axes.plot([_MARGIN, width - _MARGIN], [top, top], color=GREY, linewidth=0.4)
        _write_row(axes, row, top + 0.06, weight="normal", page=page)
        top += row_height
    axes.text(_MARGIN, height - 0.1, counts(data), fontsize=7, color=GREY, va="bottom", parse_math=False)
    return figure


def _write_row(axes: Any, cells: list[str], top: float, weight: str, page: str | None = None) -> None:
    """A row of cells, the first of which links to a page where there is one."""
    left = _MARGIN
    for cell, (title, width) in zip(cells, _COLUMNS.items(), strict=True):
        colour = MAGENTA if title == "steered" else BLACK
        link = page if left == _MARGIN else None
        axes.text(left, top, cell, fontsize=7, color=colour, va="top", weight=weight, linespacing=1.2, parse_math=False, url=link)
        left += width


def _wrapped(text: str, width: float) -> str:
    """The text in lines that fit the column; a word longer than a line is broken."""
    lines, limit = [""], (width - _GAP) * 72
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if _points(joined) <= limit:
            lines[-1] = joined
            continue
        pieces = _broken(word, limit)
        lines = [line for line in lines if line] + pieces
    return "\n".join(lines)


def _broken(word: str, limit: float) -> list[str]:
    pieces = [""]
    for character in word:
        if pieces[-1] and _points(pieces[-1] + character) > limit:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _points(text: str) -> float:
    """Width of the text as it is drawn, in points."""
    measure, font = _measure()
    return float(measure.get_text_width_height_descent(text, font, False)[0])


@functools.cache
def _measure() -> tuple[Any, Any]:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    return TextToPath(), FontProperties(family="DejaVu Sans", size=7)


def counts(data: pl.DataFrame) -> str:
    """How the features and texts were chosen, and how many failed."""
    failed = data["steered"].null_count()
    return (
        f"n = {data.height} features chosen by rule: early and late ones at even distances in the ranking by output score; "
        f"sample 0 of the first prefix, its factor chosen on other prefixes; steering failed for {failed}."
    )


FIGURE = FigureDefinition(
    position=90,
    tables=("examples",),
    caption="Example features with their scores, the tokens they promote, the text they fire on most (its token in brackets), and the "
    "same prefix continued without and with steering.",
    data=data,
    draw=draw,
    counts=counts,
)
