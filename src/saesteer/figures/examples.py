"""Example features: scores, top logit-lens tokens, the text they fire on most, and what steering with them writes, tokens highlighted."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import polars as pl

from saesteer.analysis.acceptability import is_function_word
from saesteer.figures.definition import FigureDefinition, Options, Tables, in_sample
from saesteer.figures.style import BLACK, GREY, MAGENTA, PAGE, SMALLEST, Axes, Figure, visible

_GROUPS = {True: "Steering writes top logit-lens tokens of the feature", False: "Steering writes none of them"}
"""Titles of the good and of the bad examples: whether the steered text holds a match."""
_LABELS = {"top_logit_lens_tokens": "top tokens", "top_context": "fires on", "unsteered": "unsteered", "steered": "steered"}
_LEFT = 0.95  # inches: where texts begin; their labels stand left of it
_FONTS = ("DejaVu Sans Mono", "DejaVu Sans")
"""Fonts of highlighted text. In the first all characters have one width, which says where they are; the second has a few more."""
_CHARACTER = 0.602 * SMALLEST / 72  # inches: the width of a character
_LINE = 0.155  # inches
_BASELINE = 0.115  # inches below a line's top
_MARGIN = 0.1
_GAP = 0.1  # inches between features
_ABOVE = {"group": 1.5 * _GAP, "name": _GAP}  # inches left free above a line
_START, _END = "\ue000", "\ue001"  # around what is highlighted, where text is broken into lines
_HIGHLIGHT = "#F3C4DF"


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """The examples and the matches in their steered texts: those with matches first, and of each group those of high output score."""
    rows = tables["examples"]
    n_matches = [len(_matches(row["steered"] or "", row["top_logit_lens_tokens"])) for row in rows.iter_rows(named=True)]
    counted = rows.with_columns(pl.Series("n_matches", n_matches, pl.UInt32), *in_sample(options))
    return counted.sort(pl.col("n_matches") == 0, "output_score", "layer", "feature", descending=[False, True, False, False])


def _matches(text: str, tokens: list[str]) -> list[tuple[int, int]]:
    """Start and end of every place in a text where one of the tokens stands, as a whole word if it is one; none of function words."""
    spans = set()
    for token in dict.fromkeys(token.replace("▁", " ") for token in tokens):
        word = token.strip(" ")
        if word and not is_function_word(word):
            before = r"(?<!\S)" if token.startswith(" ") else r"(?<=\S)"
            after = r"(?!\w)" if word[-1].isalnum() else ""
            spans |= {match.span() for match in re.finditer(before + re.escape(word) + after, text)}
    return sorted(spans)


def _marked(text: str, tokens: list[str]) -> str:
    """The text, marks around its matches."""
    parts, at = [], 0
    for start, end in _matches(text, tokens):
        if start >= at:
            parts += [text[at:start], _START, text[start:end], _END]
            at = end
    return "".join([*parts, text[at:]])


def _texts(row: dict[str, Any]) -> dict[str, str]:
    """What stands beside each label."""
    tokens = row["top_logit_lens_tokens"]
    written = {token for token in tokens if _matches(row["steered"] or "", [token])}
    shown = {token: visible(token.replace("▁", "").strip(" ")) or "␣" for token in tokens}
    lens = ", ".join(f"{_START}{shown[token]}{_END}" if token in written else shown[token] for token in tokens)
    top = re.sub(r"\[(.*?)\](?=\W|$)", rf"{_START}[\1]{_END}", row["top_context"] or "no max-activating examples", count=1, flags=re.DOTALL)
    steered, unsteered = (
        "steering failed" if row[name] is None else f"{row['prefix']} {_marked(row[name], tokens).strip(' ')}"
        for name in ("steered", "unsteered")
    )
    texts = {"top_logit_lens_tokens": lens, "top_context": top, "unsteered": unsteered, "steered": steered}
    return {name: re.sub(f"[^{_START}{_END}]+", lambda part: visible(part[0]), text) for name, text in texts.items()}


def _heading(row: dict[str, Any]) -> str:
    """What stands beside a feature's name."""
    parts = [f"concept: {row['concept']}"] if row["concept"] else []
    parts.append("no input score" if row["input_score"] is None else f"input score {row['input_score']:.2f}")
    parts.append(f"output score {row['output_score']:.3f}")
    return ", ".join([*parts, f"factor {row['factor']}"] if row["factor"] else parts)


def _lines(data: pl.DataFrame) -> Iterator[tuple[str, dict[str, Any], str]]:
    """What a line of the figure is (group, name or a label; "" where it goes on), its row, and its text."""
    for is_good, title in _GROUPS.items():
        rows = data.filter((pl.col("n_matches") > 0) == is_good)
        for number, row in enumerate(rows.iter_rows(named=True)):
            if number == 0:
                yield "group", row, title
            yield "name", row, _heading(row)
            for name, text in _texts(row).items():
                lines = textwrap.wrap(" ".join(text.split()), int((PAGE - 2 * _MARGIN - _LEFT) / _CHARACTER), break_on_hyphens=False)
                for place, line in enumerate(lines or [""]):
                    yield name if place == 0 else "", row, line


def draw(data: pl.DataFrame) -> Figure:
    """Good examples above bad ones; one block per feature."""
    from matplotlib.figure import Figure

    lines = list(_lines(data))
    note = textwrap.wrap(counts(data), 112)
    height = 2 * _MARGIN + _LINE * (len(lines) + len(note)) + sum(_ABOVE.get(kind, 0.0) for kind, *_ in lines) + _GAP
    figure = Figure(figsize=(PAGE, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE), ylim=(height, 0))
    axes.axis("off")
    top, is_marked, steered = _MARGIN, False, False
    for kind, row, text in lines:
        top += _ABOVE.get(kind, 0.0)
        if kind == "group":
            _write(axes, _MARGIN, top, text, size=SMALLEST + 1.5, weight="bold")
        elif kind == "name":
            axes.plot([_MARGIN, PAGE - _MARGIN], [top - 0.03, top - 0.03], color=GREY, linewidth=0.4)
            _write(axes, _MARGIN, top, f"{row['layer']}/{row['feature']}", weight="bold", url=row["page"])
            _write(axes, _LEFT, top, text, color=GREY)
        else:
            if kind:
                _write(axes, _MARGIN, top, _LABELS[kind], color=GREY)
                steered = kind == "steered"
            is_marked = _write_marked(axes, top, text, is_marked, MAGENTA if steered else BLACK)
        top += _LINE
    for place, line in enumerate(note):
        _write(axes, _MARGIN, top + _GAP + place * _LINE, line, color=GREY)
    return figure


def _write(axes: Axes, left: float, top: float, text: str, size: float = SMALLEST, color: str = BLACK, **look: Any) -> None:
    axes.text(left, top + _BASELINE, text, fontsize=size, color=color, parse_math=False, **look)


def _write_marked(axes: Axes, top: float, line: str, is_marked: bool, colour: str) -> bool:
    """A line of text over what is highlighted in it; whether the highlighting goes on in the next line."""
    from matplotlib.patches import Rectangle

    left = _LEFT
    for piece in re.split(f"([{_START}{_END}])", line):
        if piece in (_START, _END):
            is_marked = piece == _START
            continue
        width = len(piece) * _CHARACTER
        if is_marked and piece:
            axes.add_patch(Rectangle((left, top - 0.015), width, _LINE - 0.01, facecolor=_HIGHLIGHT, linewidth=0))
        left += width
    _write(axes, _LEFT, top, re.sub(f"[{_START}{_END}]", "", line), color=colour, family=_FONTS)
    return is_marked


def counts(data: pl.DataFrame) -> str:
    """How the features and texts were chosen, and how many failed."""
    failed, good = data["steered"].null_count(), (data["n_matches"] > 0).sum()
    chose = "all" if "in_sample" in data.columns else "other"
    return (
        f"n = {data.height} features chosen by rule: early and late ones at even distances in the ranking by output score; "
        f"sample 0 of the first prefix, its factor chosen on {chose} prefixes; {good} with a top logit-lens token in the steered text, "
        f"steering failed for {failed}."
    )


FIGURE = FigureDefinition(
    position=90,
    tables=("examples",),
    caption="Example features, good ones above bad ones: their scores, the tokens that they promote, the text that they fire on most (its "
    "token in brackets), and the same prefix continued without and with steering. Highlighted: top logit-lens tokens that the texts hold "
    "as whole words; function words such as “the” do not count, since any text holds them. A character that the font lacks stands as its "
    "number, such as \\u4e2d.",
    data=data,
    draw=draw,
    counts=counts,
)
