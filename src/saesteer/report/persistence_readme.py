"""The documentation's table of whether steering lasts, from results kept in git. Nobody types a number."""

from pathlib import Path

import polars as pl

from saesteer.core.files import write_text
from saesteer.core.markdown import number, table, with_interval
from saesteer.core.tables import PERSISTENCE, read_summary

KEPT = "persistence.csv"


def keep_results(made: Path, folder: Path) -> None:
    """Keep a finished PERSISTENCE in git, rounded."""
    write_text(folder / KEPT, read_summary(PERSISTENCE, made).write_csv(float_precision=4))


def persistence_markdown(folder: Path) -> str:
    """A row a layer and method, the methods of highest rating in the first stretch first."""
    rows = pl.read_csv(folder / KEPT, schema=PERSISTENCE.schema)
    lines = []
    for own in rows.sort("layer", "method", "stretch").partition_by("layer", "method", maintain_order=True):
        first, last = own.row(0, named=True), own.row(-1, named=True)
        between = " ".join(number(rating) for rating in own["concept_rating"])
        ends = [with_interval(first, "concept_rating"), between, with_interval(last, "change"), with_interval(last, "capitals")]
        lines.append((first, [first["layer"], first["title"], first["n"], *ends]))
    lines.sort(key=lambda line: (line[0]["layer"], -(line[0]["concept_rating"] or 0.0), line[0]["method"]))
    header = ["layer", "method", "concepts", "first stretch", "all stretches", "last less first", "capitals in the last"]
    return table(header, [shown for _, shown in lines]) + "\n"
