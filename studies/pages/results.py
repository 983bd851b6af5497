"""Results of finished experiments in docs/, so that a page can be written where they were not computed."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import polars as pl

from saesteer.analysis.tables import FILTER_VARIANTS, SELECTION
from saesteer.core.files import write_atomically, write_json, write_text
from saesteer.core.tables import Table, by_name, read_summary
from saesteer.figures.save import save_drawing, save_figure
from saesteer.methods.compare.tables import METHOD_SCORES
from saesteer.settings import SettingsError
from studies.pages import methods, public, public_figure, schematic
from studies.pages.findings import results_file
from studies.pages.grid_ends import update_grid_ends

SHIPPED = "tiny"
FIGURES = {"overview": "tiny/overview", "filter-variants": "tiny/filter_variants"}
"""Figure of the documentation -> the figure that it is a copy of."""


@dataclass(frozen=True)
class Snapshot:
    """Tables of an experiment that git has as CSV, rounded."""

    experiment: str
    tables: Mapping[str, Table]
    folder: str
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Table -> its columns in git; all, where it is not named."""


SNAPSHOTS = (
    Snapshot(SHIPPED, by_name(SELECTION, FILTER_VARIANTS), f"docs/results/{SHIPPED}"),
    *(Snapshot(name, by_name(SELECTION, FILTER_VARIANTS), str(public.RESULTS / name)) for name in public.MODELS),
    *(
        Snapshot(public.comparison(name), by_name(*methods.TABLES, METHOD_SCORES), str(public.methods_folder(name)), public.TABLE_COLUMNS)
        for name in public.MODELS
    ),
)


def update_results(root: Path) -> None:
    """Take over what is finished, and what is computed from it."""
    for name in (SHIPPED, *public.MODELS):
        if (measured := root / f"data/{name}/metrics.json").is_file():
            write_json(results_file(root, name), json.loads(measured.read_text(encoding="utf-8")))
    if not results_file(root, SHIPPED).is_file():
        raise SettingsError(f"docs/results/{SHIPPED}.json is missing: run `make grammar`, then `make readme`")
    for snapshot in SNAPSHOTS:
        write_snapshot(root, snapshot)
    update_grid_ends(root)
    answered = public_figure.data(root)
    save_figure(public_figure.draw(answered), answered, root / "docs/answer")
    save_drawing(schematic.draw(), root / "docs/schematic")
    for name, figure in FIGURES.items():
        if (drawn := root / f"figures/{figure}.png").is_file():
            write_atomically(root / f"docs/{name}.png", partial(shutil.copyfile, drawn))


def write_snapshot(root: Path, snapshot: Snapshot) -> None:
    """Write an experiment's tables into git's folder, where all of them are finished."""
    files = {name: root / f"data/{snapshot.experiment}/tables/{name}.parquet" for name in snapshot.tables}
    if all(file.is_file() for file in files.values()):
        for name, table in snapshot.tables.items():
            rows = read_summary(table, files[name]).select(snapshot.columns.get(name, pl.all()))
            write_text(root / snapshot.folder / f"{name}.csv", rows.write_csv(float_precision=4))
