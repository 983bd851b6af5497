"""How well what rules pick steers, with SAEs of other kinds and sparsities of the same residuals."""

import polars as pl

from saesteer.figures.definition import n_of
from saesteer.figures.style import Figure, styled
from studies.questions.choice_rules import RANDOM
from studies.questions.figures.choice_rules import TITLES
from studies.questions.figures.dots import DotPanel, dot_figure, layer_title, marks_of, points

SHOWN = ("max_activation", "input_score", "output_score", RANDOM)
"""Rules whose picks are drawn: they do not read the labels that the judge goes by."""


@styled
def draw(data: pl.DataFrame) -> Figure:
    """A panel a layer, a row a kind, by its number of active features: `kind`, `layer`, `l0`, `rule` and the score with its interval."""
    shown = data.filter(pl.col("rule").is_in(SHOWN)).with_columns(
        row=pl.format("{}: {}", "kind", pl.col("l0").map_elements("{:.1f}".format, pl.String)), mark=pl.col("rule").replace_strict(TITLES)
    )
    panels = [
        DotPanel(
            points(rows, "score", row=pl.col("row"), mark=pl.col("mark")),
            rows.sort("l0", "kind")["row"].unique(maintain_order=True).to_list(),
            "judge score of the pick (0–2)",
            title=layer_title(rows),
            left=0.0,
        )
        for rows in shown.sort("l0", "kind", maintain_order=True).partition_by("layer", maintain_order=True)
    ]
    height = 0.8 + 0.42 * data["kind"].n_unique()
    return dot_figure(panels, marks_of([TITLES[rule] for rule in SHOWN]), height, counts(data), "SAE: mean active features a token")


def counts(data: pl.DataFrame) -> str:
    """Concepts over kinds and layers, and what the bars are."""
    return f"{n_of(data['n_concepts'])} concepts with two labelled features or more. Bars: 95% intervals over concepts."
