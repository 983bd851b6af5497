"""Figures on disk: PDF, PNG and the data behind them, the same bytes every time they are made."""

from functools import partial
from pathlib import Path

import polars as pl

from saesteer.core.files import write_atomically
from saesteer.figures.style import Figure, in_style

# Time stamps and versions stay out of the files, so that equal figures are equal bytes.
_METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
}


def save_figure(figure: Figure, data: pl.DataFrame, stem: Path) -> list[Path]:
    """Write STEM.pdf, STEM.png and STEM.csv, each atomically; returns their paths."""
    table = stem.with_name(f"{stem.name}.csv")
    images = save_drawing(figure, stem)
    write_atomically(table, flat(data).write_csv)
    return [*images, table]


def save_drawing(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.pdf and STEM.png of what shows no data; returns their paths."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in _METADATA]
    with in_style():
        for path, (kind, metadata) in zip(paths, _METADATA.items(), strict=True):
            write_atomically(path, partial(figure.savefig, format=kind, metadata=metadata))
    return paths


def flat(data: pl.DataFrame) -> pl.DataFrame:
    """Lists as text, their items separated by spaces: CSV has no lists. A text that a spreadsheet would run as a formula begins with an
    apostrophe."""
    lists = [name for name, dtype in data.schema.items() if isinstance(dtype, pl.List)]
    table = data.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in lists)
    is_formula = pl.col(pl.String).str.contains(r"^[=+@\t\r-]") & pl.col(pl.String).cast(pl.Float64, strict=False).is_null()
    return table.with_columns(pl.when(is_formula).then("'" + pl.col(pl.String)).otherwise(pl.col(pl.String)).name.keep())
