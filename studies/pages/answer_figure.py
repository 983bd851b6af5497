"""The README's figure: what the filter by output score gains on the shipped model, and which rule picks a concept's feature best."""

from pathlib import Path

import polars as pl

from saesteer.figures.gen_success_by_threshold import panel
from saesteer.figures.style import PAGE, Figure, legend_entry, new_figure, styled
from studies.pages.questions import FOLDER, JUDGED
from studies.questions.choice_rules import BEST, RANDOM
from studies.questions.figures.dots import DotPanel, draw_dots, layer_marks, points

CURVE = Path("docs/results/gen_success_by_threshold.csv")
"""The table of the shipped experiment's figure of that name, in git."""
LOWEST = 1e-4
"""Thresholds below it keep nearly every feature."""
_CURVE, _PICKS = "threshold", "picks"
_RULES = {
    BEST: "brute force",
    "mean_cosine": "difference of means",
    "max_activation": "max activation",
    "output_score": "output score",
    RANDOM: "random",
}
"""Rules by short names, for a panel of half a page."""


def data(root: Path) -> pl.DataFrame:
    """Rows of both panels, by `panel`."""
    curve = pl.read_csv(root / CURVE).filter(pl.col("threshold") >= LOWEST, layers="all")
    picks = pl.read_csv(root / FOLDER / "tiny-brute/choice_rules.csv").filter(pl.col("rule").is_in(list(_RULES)), **JUDGED)
    return pl.concat([curve.with_columns(panel=pl.lit(_CURVE)), picks.with_columns(panel=pl.lit(_PICKS))], how="diagonal_relaxed")


@styled
def draw(rows: pl.DataFrame) -> Figure:
    """The threshold curve, and the picks of a few rules at each layer."""
    curve, picks = rows.filter(panel=_CURVE), rows.filter(panel=_PICKS)
    n, n_concepts = int(curve["n_features"][0]), int(picks["n_concepts"].to_numpy().max())
    figure = new_figure(PAGE, 3.4, f"n = {n} features (left), {n_concepts} concepts (right). Bands and bars: 95% intervals.")
    left, right = figure.subplots(1, 2, width_ratios=(1.2, 1))
    panel(left, curve, "Does the filter help?")
    left.set_ylim(top=3.2)  # room for the legend
    left.legend(loc="upper left")
    marks = layer_marks(picks["layer"].cast(pl.Int64))
    shown = points(picks, "score", row=pl.col("rule").replace_strict(_RULES), mark=pl.format("layer {}", pl.col("layer").cast(pl.Int64)))
    draw_dots(right, DotPanel(shown, list(_RULES.values()), "judge score (0–2)", left=0.0, title="Which rule picks the feature?"), marks)
    right.legend(loc="lower right", handles=[legend_entry(name, mark.colour, marker=mark.marker) for name, mark in marks.items()])
    return figure
