"""What the filter gains in every variant of the analysis, with and without the unsteered texts' success."""

from itertools import product

import polars as pl

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.selection import CONTROLS, LAYER_SETS, SUCCESSES
from saesteer.figures.definition import FigureDefinition, Options, Tables, constants, n_of
from saesteer.figures.style import BLACK, BLUE, GREY, MAGENTA, PAGE, Axes, Figure, legend_above, new_figure

_GAINS = {
    "ratio": ("over all features", MAGENTA, "o"),
    "within_layers": ("within layers", BLUE, "s"),
    "matched": ("within layers, lens tokens as frequent", BLACK, "^"),
    "matched_density": ("within layers, as dense", GREY, "D"),
}
_TITLES = {
    "gen_success_20": "GenSuccess@20",
    "net_gen_success_20": "net GenSuccess@20",
    "net_concept_outside": "net rating without\nlens tokens",
}
_PERPLEXITIES = {"continuation": "geometric", "continuation_arithmetic": "arithmetic", "whole_text": "whole text"}
_LEAST_SHOWN = 4.0
"""The axis reaches at least so far, or as far as any interval, and one and a half times as far as any gain: what reaches further is cut."""
_CHOICES = {"held_out": "held out", "same_texts": "same texts"}


def data(tables: Tables, options: Options) -> pl.DataFrame:
    """Every variant, in the order in which they are shown."""
    numbers = (name for gain in _GAINS for name in (gain, f"{gain}_low", f"{gain}_high"))
    columns = ("factor_choice", "perplexity", "rule", "success", "layers", "is_registered", "n_features", "n_kept", *numbers)
    return tables["filter_variants"].select(*columns, *(f"p_{control}" for control in CONTROLS), *constants(options)).sort(columns[:5])


def panel(axes: Axes, rows: pl.DataFrame) -> None:
    """One kind of success and set of layers: one row per variant."""
    places = {variant: place for place, variant in enumerate(product(RULES, _CHOICES, _PERPLEXITIES))}
    for row in rows.iter_rows(named=True):
        place = places[row["rule"], row["factor_choice"], row["perplexity"]]
        for offset, (gain, (label, colour, marker)) in zip((-0.3, -0.1, 0.1, 0.3), _GAINS.items(), strict=True):
            value, low, high = (row[name] for name in (gain, f"{gain}_low", f"{gain}_high"))
            if low is not None:
                axes.plot([low, high], [place + offset] * 2, color=colour, linewidth=0.8)
            if value is not None:
                axes.plot([value], [place + offset], marker, color=colour, markersize=3.5, linestyle="none", label=label)
        if row["is_registered"]:
            axes.axhspan(place - 0.5, place + 0.5, color=GREY, alpha=0.15, linewidth=0)
    axes.axvline(1, color=BLACK, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(places)), [f"{RULES[rule]}, {_CHOICES[choice]}, {_PERPLEXITIES[by]}" for rule, choice, by in places])
    axes.set_ylim(len(places) - 0.5, -0.5)


def draw(data: pl.DataFrame) -> Figure:
    """P1's success on the left, the net ones right of it; all layers above, late ones below."""
    figure = new_figure(PAGE, 7.4, counts(data))
    panels = figure.subplots(len(LAYER_SETS), len(SUCCESSES), sharex=True, sharey=True)
    for axes, (layers, success) in zip(panels.flat, product(LAYER_SETS, SUCCESSES), strict=True):
        panel(axes, data.filter(layers=layers, success=success))
        axes.set_title(f"{_TITLES[success]}\n{layers} layers")
        axes.set_xlabel("kept over others\n(times)")
    panels[0, 0].set_xlim(-0.1, furthest(data) + 0.1)
    for axes in panels[:, 0]:
        axes.set_ylabel("how the factor is chosen")
    handles = {label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend_above(figure, list(handles.values()), columns=3)
    return figure


def furthest(data: pl.DataFrame) -> float:
    """Where the axis ends."""
    gains, ends = (
        data.select(pl.max_horizontal(pl.col(names).max())).item() for names in (list(_GAINS), [f"{gain}_high" for gain in _GAINS])
    )
    return min(max(_LEAST_SHOWN, 1.5 * (gains or 0.0)), max(ends or 0.0, gains or 0.0, 1.0))


def counts(data: pl.DataFrame) -> str:
    """Features, and what the marks are."""
    level = f"{data['confidence'][0]:.0%}"
    kept = "; ".join(
        f"{layers} layers: {n_of(rows['n_features'])}, {n_of(rows['n_kept'])} kept"
        for layers in LAYER_SETS
        if (rows := data.filter(layers=layers)).height
    )
    is_cut = data.select(pl.max_horizontal(pl.col(f"{gain}_high").max() for gain in _GAINS) > furthest(data)).item()
    cut = ", cut at the axis' end" if is_cut else ""
    return f"{kept}. {level} intervals over features{cut}. Shaded: the registered variant. Perplexity: of continuations or whole texts."


FIGURE = FigureDefinition(
    position=35,
    tables=("filter_variants",),
    caption="How many times the filter by output score raises a mean success, for each way to choose the factor (rule; on other prompts "
    "or the same; kind of perplexity): over all features, over as many of each layer, and of these with top logit-lens tokens as "
    "frequent in unsteered texts, or as dense. Net: the same prompts' unsteered texts are subtracted. On the right the success is "
    "the concept rating of the text without the feature's lens tokens.",
    data=data,
    draw=draw,
    counts=counts,
)
