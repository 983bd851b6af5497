"""The report's folder: the page that is the same for every experiment, its data in pieces, and the figures.

    index.html, report.js, report.css, LICENSES.txt   as bundled from web/ by `make report-assets`
    data/index.js                                     what there is, and all that the overview shows
    data/c, f, m, t                                   columns of the table, pages of features and of methods, methods' texts
    figures/                                          the figures' PNGs

The same tables give the same bytes. What there are no tables of is left out and named in `index.js`, under `missing`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

import saesteer
from saesteer.analysis.tables import STEERING
from saesteer.core.errors import SaesteerError
from saesteer.core.files import file_digest, write_folder
from saesteer.core.store import mixed_versions
from saesteer.core.tables import Table
from saesteer.figures.registry import FIGURES
from saesteer.judge.answers import models_behind
from saesteer.methods.compare.tables import METHOD_SUMMARIES
from saesteer.run import Run
from saesteer.settings import Sweep
from saesteer.site.feature_pages import N_EXAMPLES, N_PROMPTS, held_out_scores, write_feature_pages
from saesteer.site.feature_table import write_feature_table
from saesteer.site.headline import headline_rows
from saesteer.site.method_pages import write_method_pages
from saesteer.site.pieces import as_json, read_piece, shortened, write_piece
from saesteer.steps.features import FEATURES
from saesteer.steps.judges import judge_of
from saesteer.steps.step import step_tables
from saesteer.summaries.summary import summary_tables

ASSETS = ("index.html", "report.js", "report.css", "LICENSES.txt")
_OF_OTHERS = {".DS_Store", "Thumbs.db", "desktop.ini", ".snakemake_timestamp"}
"""Files that desktops put into folders which somebody looked at, and Snakemake into those that it made."""
_STEPS_SHOWN = {name: table for name, table in step_tables().items() if name != "effects"}


class ReportError(SaesteerError, RuntimeError):
    """A report that cannot be written; the message says what is missing or in the way."""


def write_report(run: Run, folder: Path) -> Path:
    """Write the report of an experiment's tables; gives the page to open. A report that is there is replaced by the finished one."""
    features = run.summary_if_any(FEATURES)
    if features is None:
        raise ReportError(f"{run.data} holds no tables/features.parquet: run the experiment first")
    if others := _not_of_a_report(folder):
        raise ReportError(
            f"{folder} holds {others[0]}, which is not of a report, and would be lost: name another folder, or move that away"
        )

    def write(partial: Path) -> None:
        write_piece(partial, "index", as_json(_index(run, features, partial) | {"files": _listed_files(run, folder)}))
        for name in ASSETS:
            (partial / name).write_bytes(resources.files("saesteer.site").joinpath("assets", name).read_bytes())

    write_folder(folder, write)
    return folder / "index.html"


def _not_of_a_report(folder: Path) -> list[str]:
    """What a folder holds beside a report, or in place of one; nothing where there is no folder."""
    names = sorted({path.name for path in folder.iterdir()} - _OF_OTHERS) if folder.exists() else []
    others = [name for name in names if name not in (*ASSETS, "data", "figures")]
    return others or (names if names and read_piece(folder, "index") is None else [])


def _index(run: Run, features: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """What the page has to know before anything is chosen; writes all other pieces on its way."""
    methods, scores = run.summary_if_any(METHOD_SUMMARIES["methods"]), held_out_scores(run)
    prompts, metrics = run.prompts_if_any(), run.data / "metrics.json"
    medians = (pl.col(name).median() for name in ("input_score", "output_score"))
    return {
        "name": run.name,
        "description": run.experiment.description,
        "ran": list(_what_ran(run)),
        "headline": _headline(run, metrics) if metrics.is_file() and isinstance(run.experiment, Sweep) else [],
        "figures": _copied_figures(run.figures, folder),
        "layers": shortened(features.group_by("layer", maintain_order=True).agg(pl.len(), *medians)).rows(),
        "table": write_feature_table(folder, run, features, scores),
        "features": write_feature_pages(folder, run, features, scores),
        "methods": None if methods is None else write_method_pages(folder, run, methods),
        "answers": run.experiment.model.prompt_format == "chat",
        "prompts": list(prompts.values())[:N_PROMPTS],
        "limits": {"n_prompts": len(prompts), "n_examples": N_EXAMPLES},
        "missing": _missing(run),
        "mixed": _mixed(run),
    }


def _headline(run: Run, metrics: Path) -> list[tuple[str, str, str]]:
    return headline_rows(json.loads(metrics.read_text(encoding="utf-8")), run.sweep.best_factor.factor_choice)


def _what_ran(run: Run) -> Iterator[tuple[str, str]]:
    """What was run, on which model and version, and when its tables were written, in words."""
    pinned = run.pin() if (run.data / "pins/model.json").is_file() else None
    name = pinned["path"] if pinned else run.experiment.model.name  # the pin's is that of the results, whatever the file says now
    yield "Model", Path(name).name if Path(name).is_absolute() else name
    if pinned:
        yield "Version", f"{(pinned['revision'] or pinned['digest'])[:12]} (commit, or digest of its files)"
    if isinstance(run.experiment, Sweep):
        yield "Texts", f"{len(run.prompts_if_any())} prompts, {len(run.experiment.sweep.factors)} factors of each feature"
    written = max(table.stat().st_mtime for table in run.summary_path(FEATURES).parent.iterdir())
    yield "Tables", f"last written on {datetime.fromtimestamp(written, UTC):%d %B %Y}; this report by saesteer {saesteer.__version__}"


def _copied_figures(figures: Path, folder: Path) -> list[list[str]]:
    """Copy the figures that are there; gives name and caption of each."""
    (folder / "figures").mkdir()
    drawn = [name for name in FIGURES if (figures / f"{name}.png").is_file()]
    for name in drawn:
        shutil.copyfile(figures / f"{name}.png", folder / f"figures/{name}.png")
    return [[name, FIGURES[name].caption] for name in drawn]


def _listed_files(run: Run, folder: Path) -> list[dict[str, Any]]:
    """Each table that is there: its files as seen from the report's folder, with digests, and what its columns mean. Numbers come from the
    SAEs' manifests, too, though they are of no table."""
    listed = []
    data, here = run.data.resolve(), folder.resolve()
    is_near = os.path.commonpath([data, here]) != here.anchor  # else a link would spell the whole path
    paths = [(table, [run.summary_path(table)]) for table in summary_tables().values()]
    paths += [(table, run.present_manifests(table.name)) for table in (Table("saes", (), {}), *_STEPS_SHOWN.values())]
    for table, of_table in paths:
        if of_table and of_table[0].is_file():
            names = [f"{run.name}/{path.relative_to(run.data).as_posix()}" for path in of_table]
            addresses = [os.path.relpath(path.resolve(), here) if is_near else None for path in of_table]
            files = [[name, address, file_digest(path)] for name, address, path in zip(names, addresses, of_table, strict=True)]
            columns = [[name, column.meaning, column.null_when] for name, column in table.columns.items()]
            listed.append({"table": table.name, "files": files, "columns": columns})
    return listed


def _mixed(run: Run) -> list[str]:
    """Tables whose rows were made with several versions of a library, and a judge's by several models under one name, in words."""
    mixed = {name: mixed_versions(run.present_manifests(name)) for name in _STEPS_SHOWN}
    if (judge := judge_of(run.experiment)) and judge.endpoint:
        models = models_behind(judge.endpoint, run.data / "judge/answers")
        mixed["judge"] |= {f"{judge.endpoint.model} answered as": models} if len(models) > 1 else {}
    return [f"{name}: {library} {' and '.join(versions)}" for name, libraries in mixed.items() for library, versions in libraries.items()]


def _missing(run: Run) -> list[str]:
    """What the report lacks, and why, in words."""
    n_saes = sum(run.sae_file_if_any(layer) is not None for layer in run.layers)
    swept = run.summary_if_any(STEERING) is not None
    lacks = {
        "Steered texts of features": not run.present_manifests("gen_success") and not swept,
        "Curves over factors": not swept,
        "Ratings": not run.present_manifests("judge"),
        "Max-activating examples": not run.present_manifests("max_activating_examples"),
        "Activations of every token of an example": not run.present_manifests("activations"),
        "Neighbours": n_saes < len(run.layers),
        "The comparison of methods": run.summary_if_any(METHOD_SUMMARIES["methods"]) is None,
    }
    return [name for name, lacking in lacks.items() if lacking]
