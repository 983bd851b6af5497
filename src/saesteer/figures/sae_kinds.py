"""How well what rules pick steers, with SAEs of other kinds and sparsities of the same residuals."""

import polars as pl
from matplotlib.figure import Figure

from saesteer.analysis.choice_rules import RANDOM
from saesteer.figures.choice_rules import TITLES
from saesteer.figures.dots import dodged, dots, legend, named_rows
from saesteer.figures.method_families import n_of
from saesteer.figures.style import WIDE, new_figure, styled

SHOWN = ("mean_cosine", "max_activation", "output_score", RANDOM)
"""Rules whose picks are drawn."""


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer, a row a kind, by its number of active features: `kind`, `layer`, `l0`, `rule` and the score with its interval."""
    layers = data.partition_by("layer", maintain_order=True)
    figure = new_figure(WIDE, 1.6 + 0.42 * data["kind"].n_unique(), counts(data))
    panels = figure.subplots(1, len(layers), squeeze=False)[0]
    for axes, rows in zip(panels, layers, strict=True):
        kinds = rows.sort("l0", "kind").unique("kind", maintain_order=True)
        for number, rule in enumerate(SHOWN):
            own = kinds.select("kind").join(rows.filter(rule=rule), on="kind", how="left", maintain_order="left")
            dots(axes, own, "score", pl.Series(range(own.height), dtype=pl.Float64) + dodged(number, len(SHOWN)), number)
        named_rows(axes, [f"{kind}: {l0:.1f}" for kind, l0 in kinds.select("kind", "l0").iter_rows()], "judge score of the pick (0–2)")
        axes.set_xlim(left=0)
        axes.set_title(f"layer {rows['layer'][0]}")
    panels[0].set_ylabel("SAE: mean active features a token")
    legend(figure, {TITLES[rule]: number for number, rule in enumerate(SHOWN)})
    return figure


def counts(data: pl.DataFrame) -> str:
    """Concepts over kinds and layers, and what the bars are."""
    return f"{n_of(data['n_concepts'])} concepts with two labelled features or more. Bars: 95% bootstrap over concepts."
