"""Every steering method's held-out score, sorted, with its interval over concepts; what it would be without abstentions; unsteered text."""

from typing import Any

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, n_of
from saesteer.figures.method_families import LOOKS, family_handles
from saesteer.figures.style import BLACK, GREY, PAGE, Axes, Figure, empty_panel, legend_entry, new_figure
from saesteer.settings.registry import method

_UNSTEERED = method("unsteered")
_COLUMNS = (
    "layer", "method", "title", "family", "n_concepts", "n", "score", "score_low", "score_high", "n_abstaining", "n_surviving",
    "surviving_score", "surviving_low", "surviving_high", "n_texts", "n_missing", "confidence",
)  # fmt: skip
_LINE = 0.21  # inches a method
_BELOW = 0.28  # how far the survivors' mean is drawn below the row's middle


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """What of the table of methods is drawn, best first in each layer, those without a score last."""
    shown = tables["methods"].select(_COLUMNS)
    return shown.sort("layer", "score", "method", descending=[False, True, False], nulls_last=True)


def panel(axes: Axes, rows: pl.DataFrame) -> None:
    """One layer's methods, the best at the top."""
    for place, row in enumerate(rows.iter_rows(named=True)):
        look = LOOKS[row["family"]]
        _mean(axes, row, "score", float(place), look.marker, look.colour)
        if row["n_abstaining"]:
            _mean(axes, row, "surviving", place + _BELOW, "o", "none")
    _unsteered(axes, rows)
    axes.set_yticks(range(rows.height), [_label(row) for row in rows.iter_rows(named=True)])
    axes.set_ylim(rows.height - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("held-out score, mean over concepts")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    if rows["score"].null_count() == rows.height:
        empty_panel(axes, "no text could be rated")


def _mean(axes: Axes, row: dict[str, Any], name: str, place: float, marker: str, face: str) -> None:
    """A mean with its interval, over all concepts or (hollow, thin) over surviving ones."""
    middle = row["score" if name == "score" else "surviving_score"]
    if middle is None:
        return
    colour = LOOKS[row["family"]].colour
    if row[f"{name}_low"] is not None:
        axes.hlines(place, row[f"{name}_low"], row[f"{name}_high"], color=colour, linewidth=1.6 if name == "score" else 0.7)
    size = 6 if name == "score" else 4
    axes.plot([middle], [place], marker, color=colour, markerfacecolor=face, markersize=size, label=f"{name}/{row['method']}")


def _unsteered(axes: Axes, rows: pl.DataFrame) -> None:
    known = rows.filter(pl.col("method") == _UNSTEERED.key).drop_nulls("score")
    for row in known.iter_rows(named=True):
        axes.axvline(row["score"], color=GREY, linewidth=1, linestyle="--", zorder=0, label="unsteered")


def _label(row: dict[str, Any]) -> str:
    return f"{row['title']} ({row['n_abstaining']} abstain)" if row["n_abstaining"] else row["title"]


def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer."""
    layers = data.partition_by("layer", maintain_order=True)
    height = 1.6 + _LINE * max(rows.height for rows in layers)
    figure = new_figure(PAGE * (0.4 + 0.6 * len(layers)) * 1.1, height, counts(data))
    panels = figure.subplots(1, len(layers), squeeze=False)[0]
    for axes, rows in zip(panels, layers, strict=True):
        panel(axes, rows)
        axes.set_title(f"layer {rows['layer'][0]}")
    survivors = legend_entry("survivors only", BLACK, marker="o", markerfacecolor="none", markersize=4)
    unsteered = legend_entry("unsteered", GREY, linestyle="--", linewidth=1)
    hollow = [survivors] if data["n_abstaining"].sum() else []
    figure.legend(handles=[*family_handles(data), *hollow, unsteered], loc="outside upper center", ncols=4)
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts, those behind each mean, and texts without a rating."""
    return (
        f"{n_of(data['n'])} of {data['n_concepts'][0]} concepts; {data['n_missing'].sum()} of {data['n_texts'].sum()} texts unrated, "
        f"left out. Bars: {data['confidence'][0]:.0%} intervals over concepts; they are not paired: see the differences."
    )


FIGURE = FigureDefinition(
    position=190,
    tables=("methods",),
    caption="Held-out score of every method, mean over all concepts, where one that abstains counts as the unsteered text (dashed line). "
    "Hollow: over the concepts alone for which the method has something to steer with.",
    data=data,
    draw=draw,
    counts=counts,
)
