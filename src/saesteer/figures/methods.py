"""Every steering method's score, sorted, with its interval over concepts; what it would be without abstentions; unsteered text."""

from typing import Any

import polars as pl

from saesteer.figures.definition import FigureDefinition, Options, Tables, held_out, in_sample, n_of
from saesteer.figures.style import BLACK, GREY, LOOKS, PAGE, Axes, Figure, empty_panel, families_in, legend_above, legend_entry, new_figure
from saesteer.settings.registry import method

_UNSTEERED = method("unsteered")
_COLUMNS = (
    "layer", "method", "title", "family", "n_concepts", "n", "score", "score_low", "score_high", "n_abstaining", "n_surviving",
    "surviving_score", "surviving_low", "surviving_high", "n_texts", "n_missing", "confidence",
)  # fmt: skip
_LINE = 0.2  # inches a method
_MARKERS = "oDs^vP*X"
"""Markers of the first, second, ... layer."""
_BELOW = 0.2  # how far the survivors' mean is drawn below the mean over all
_SPREAD = 0.5  # of a method's row, over which its layers are spread


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """What of the table of methods is drawn, best first in each layer, those without a score last."""
    shown = tables["methods"].select(*_COLUMNS, *in_sample(options))
    return shown.sort("layer", "score", "method", descending=[False, True, False], nulls_last=True)


def ordered(data: pl.DataFrame) -> pl.DataFrame:
    """One row per method, the best by its mean score over layers first, with its place, family and abstentions."""
    methods = data.group_by("method", maintain_order=True).agg(
        pl.col("title", "family").first(), pl.col("score").mean(), abstentions=pl.col("n_abstaining").sort_by("layer")
    )
    return methods.sort("score", "method", descending=[True, False], nulls_last=True).with_row_index("place")


def panel(axes: Axes, data: pl.DataFrame) -> None:
    """One row per method, the best at the top; one marker per layer."""
    methods, layers = ordered(data), data["layer"].unique().sort().to_list()
    places = dict(methods.select("method", "place").iter_rows())
    for number, layer in enumerate(layers):
        beside = _SPREAD * (number / (len(layers) - 1) - 0.5) if len(layers) > 1 else 0.0
        for row in data.filter(layer=layer).iter_rows(named=True):
            _mean(axes, row, "score", places[row["method"]] + beside, _MARKERS[number % len(_MARKERS)])
            if row["n_abstaining"]:
                _mean(axes, row, "surviving", places[row["method"]] + beside + _BELOW, _MARKERS[number % len(_MARKERS)])
    for score in data.filter(method=_UNSTEERED.key)["score"].drop_nulls().unique().sort():
        axes.axvline(score, color=GREY, linewidth=1, linestyle="--", zorder=0, label="unsteered")
    axes.set_yticks(range(methods.height), [_label(row) for row in methods.iter_rows(named=True)])
    axes.set_ylim(methods.height - 0.4, -0.6)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel(f"{held_out(data)} score, mean over concepts")
    axes.set_title(layers_named(layers))
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    if data["score"].null_count() == data.height:
        empty_panel(axes, "no text could be rated")


def layers_named(layers: list[int]) -> str:
    """The panel's title."""
    if len(layers) < 2:
        return f"layer {', '.join(map(str, layers))}"
    return f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}"


def _mean(axes: Axes, row: dict[str, Any], name: str, place: float, marker: str) -> None:
    """A mean with its interval, over all concepts or (hollow, its interval thin) over surviving ones."""
    middle = row["score" if name == "score" else "surviving_score"]
    if middle is None:
        return
    colour, solid = LOOKS[row["family"]].colour, name == "score"
    if row[f"{name}_low"] is not None:
        axes.hlines(place, row[f"{name}_low"], row[f"{name}_high"], color=colour, linewidth=1.4 if solid else 0.5)
    label, size = f"{name}/{row['method']}/{row['layer']}", 5 if solid else 4
    axes.plot([middle], [place], marker, color=colour, markerfacecolor=colour if solid else "none", markersize=size, label=label)


def _label(row: dict[str, Any]) -> str:
    """A method's title, and for how many concepts it abstains: one number, or one a layer where they differ."""
    numbers = [str(number) for number in row["abstentions"]]
    if not any(row["abstentions"]):
        return str(row["title"])
    return f"{row['title']} ({numbers[0] if len(set(numbers)) == 1 else ' and '.join(numbers)} abstain)"


def draw(data: pl.DataFrame) -> Figure:
    """One panel; colours are families, markers layers."""
    figure = new_figure(PAGE, 1.9 + _LINE * data["method"].n_unique(), counts(data))
    panel(figure.subplots(), data)
    families = [legend_entry(family, LOOKS[family].colour, linestyle="-", linewidth=4) for family in families_in(data)]
    layers = [
        legend_entry(f"layer {layer}", BLACK, marker=_MARKERS[number % len(_MARKERS)], markersize=5)
        for number, layer in enumerate(data["layer"].unique().sort())
    ]
    hollow = legend_entry("without abstentions", BLACK, marker="o", markerfacecolor="none", markersize=4)
    unsteered = legend_entry("unsteered", GREY, linestyle="--", linewidth=1)
    handles = [*families, *layers, *([hollow] if data["n_abstaining"].sum() else []), unsteered]
    legend_above(figure, handles, columns=4)
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
    caption="Score of every method, mean over all concepts, the best by its mean over layers first; one marker per layer, one"
    " colour per family. A method that abstains counts as the unsteered text (dashed line). Hollow: over the concepts alone for which the"
    " method has something to steer with.",
    data=data,
    draw=draw,
    counts=counts,
)
