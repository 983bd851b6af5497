"""The figures by name, and how one is made."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from saesteer.figures import (
    by_factor,
    examples,
    gen_success_by_threshold,
    input_vs_output,
    judge_kept_removed,
    output_score_vs_outcome,
    overview,
    pmi_by_threshold,
    roles,
)
from saesteer.figures.definition import FigureDefinition, Options
from saesteer.figures.names import FIGURE_TABLES
from saesteer.figures.save import save_figure

FIGURES: dict[str, FigureDefinition] = {
    module.FIGURE.name: module.FIGURE
    for module in (
        overview,
        roles,
        gen_success_by_threshold,
        input_vs_output,
        output_score_vs_outcome,
        by_factor,
        judge_kept_removed,
        pmi_by_threshold,
        examples,
    )
}


def make(name: str, tables: Mapping[str, pl.DataFrame], options: Options, stem: Path) -> str:
    """Draw a figure from its tables and write STEM.pdf, STEM.png and STEM.csv; returns the caption."""
    definition = FIGURES[name]
    data = definition.data({table: tables[table] for table in FIGURE_TABLES[name]}, options)
    save_figure(definition.draw(data), data, stem)
    return definition.caption(data)
