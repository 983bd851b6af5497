"""Results of finished experiments in docs/, so that a page can be written where they were not computed."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import polars as pl

from saesteer.core.files import write_atomically, write_json, write_text
from saesteer.core.tables import FILTER_VARIANTS, METHOD_SCORES, SELECTION, Table, by_name, read_summary
from saesteer.figures.definition import FigureDefinition, Options
from saesteer.figures.save import save_drawing, save_figure
from saesteer.figures.style import styled
from saesteer.settings import IntervalSettings, SettingsError
from studies.pages import answer_figure, effects, findings, methods, public, questions, schematic
from studies.pages.grid_ends import update_grid_ends
from studies.pages.scores import scores_by_layer
from studies.questions.registry import FIGURES as FIGURES_OF_THE_STUDY
from studies.questions.registry import TABLES as STUDY_TABLES
from studies.questions.tables import EFFECT_LAYERS

SHIPPED = "tiny"
OF_OTHERS = ("layers", "depth")
"""What git has of the metrics of experiments on other models."""
FIGURES = {
    "overview": "tiny/overview",
    "filter-variants": "tiny/filter_variants",
    "methods": "tiny-methods/methods",
}
"""Figure of the documentation -> the figure that it is a copy of."""
DRAWN = {
    "tiny-brute": ("choice_rules", "docs/open-questions"),
    "effects": ("effects", "docs/effects"),
}
"""Figure of the documentation -> the study's figure, drawn from the tables in a folder of git."""


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
    *(Snapshot(questions.EXPERIMENT, by_name(table), str(questions.FOLDER)) for table in questions.TABLES.values()),
    *(Snapshot(name, by_name(*effects.TABLES), folder) for name, folder in effects.FOLDERS.items()),
    Snapshot("tiny-effects-layers", by_name(EFFECT_LAYERS), effects.SHIPPED),
    Snapshot(methods.COMPARISON, by_name(*methods.TABLES), str(methods.FOLDER), methods.TABLE_COLUMNS),
    *(Snapshot(name, by_name(SELECTION, FILTER_VARIANTS), str(public.RESULTS / name)) for name in public.MODELS),
    *(
        Snapshot(public.comparison(name), by_name(*methods.TABLES, METHOD_SCORES), str(public.methods_folder(name)), public.TABLE_COLUMNS)
        for name in public.MODELS
    ),
)


def update_results(root: Path) -> None:
    """Take over what is finished, and what is computed from it."""
    others = {f"docs/results/{name}.json" for name in findings.MODELS if name != SHIPPED}
    for source, target in _metrics(root).items():
        if (root / source).is_file():
            measured = json.loads((root / source).read_text(encoding="utf-8"))
            write_json(root / target, {name: measured[name] for name in OF_OTHERS} if target in others else measured)
    if not (root / f"docs/results/{SHIPPED}.json").is_file():
        raise SettingsError(f"docs/results/{SHIPPED}.json is missing: run `make grammar`, then `make readme`")
    for snapshot in SNAPSHOTS:
        write_snapshot(root, snapshot)
    if scored := list((root / "data/tiny-all/features").glob("layer_*.parquet")):
        write_json(root / "docs/scores/tiny-all.json", scores_by_layer(scored))
    update_grid_ends(root)
    answered = answer_figure.data(root)
    save_figure(answer_figure.draw(answered), answered, root / "docs/answer")
    save_drawing(schematic.draw(), root / "docs/schematic")
    for name, (figure, folder) in DRAWN.items():
        draw_kept(root / folder, FIGURES_OF_THE_STUDY[figure], root / f"docs/{name}")
    for name, figure in FIGURES.items():
        if (drawn := root / f"figures/{figure}.png").is_file():
            write_atomically(root / f"docs/{name}.png", partial(shutil.copyfile, drawn))


def draw_kept(folder: Path, figure: FigureDefinition, stem: Path) -> None:
    """Draw a figure of the study from the tables of a folder in git, which are beside the page that shows it."""
    tables = {name: pl.read_csv(folder / f"{name}.csv", schema=STUDY_TABLES[name].schema) for name in figure.tables}
    save_drawing(styled(figure.draw)(figure.data(tables, Options("capped", IntervalSettings()))), stem)


def write_snapshot(root: Path, snapshot: Snapshot) -> None:
    """Write an experiment's tables into git's folder, where all of them are finished."""
    files = {name: root / f"data/{snapshot.experiment}/tables/{name}.parquet" for name in snapshot.tables}
    if all(file.is_file() for file in files.values()):
        for name, table in snapshot.tables.items():
            rows = read_summary(table, files[name]).select(snapshot.columns.get(name, pl.all()))
            write_text(root / snapshot.folder / f"{name}.csv", rows.write_csv(float_precision=4))


def _metrics(root: Path) -> dict[str, str]:
    """What was measured -> its copy in git: headline numbers, and of models that are not shipped."""
    headlines = {f"data/{name}/metrics.json": f"docs/results/{name}.json" for name in (*findings.MODELS, *public.MODELS)}
    models = {f"build/world/{folder}/metrics.json": f"docs/models/{folder}.json" for folder in findings.BUILT.values()}
    return headlines | models
