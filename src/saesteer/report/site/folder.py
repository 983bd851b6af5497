"""The report's folder: the page that is the same for every experiment, its data in pieces, and the figures.

    index.html, report.js, report.css, LICENSES.txt   as bundled from web/ by `make report-assets`
    data/index.js                                     what there is, and all that the overview shows
    data/c, f, m, t                                   columns of the table, pages of features and of methods, methods' texts
    figures/                                          the figures' PNGs

The same tables give the same bytes. What there are no tables of is left out and named in `index.js`, under `missing`.
"""

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.errors import SaesteerError
from saesteer.core.store import mixed_versions
from saesteer.core.tables import ALL_SUMMARIES, DAMAGE, FITS, STEPS
from saesteer.figures.names import CAPTIONS
from saesteer.judge.answering_models import models_behind
from saesteer.report.headline import headline_rows
from saesteer.report.site.feature_pages import N_PROMPTS, N_RECORDS, write_feature_pages
from saesteer.report.site.feature_table import write_feature_table
from saesteer.report.site.method_pages import write_method_pages
from saesteer.report.site.pieces import as_json, shortened, write_piece
from saesteer.report.site.results import Results
from saesteer.settings import EndpointJudge

ASSETS = ("index.html", "report.js", "report.css", "LICENSES.txt")
_INDEX = "data/index.js"
_FILES_SHOWN = STEPS | {FITS.name: FITS, DAMAGE.name: DAMAGE}


class ReportError(SaesteerError, RuntimeError):
    """A report that cannot be written; the message says what is missing or in the way."""


def write_report(results: Results, folder: Path) -> Path:
    """Write the report of an experiment's tables; gives the page to open. A report that is there is replaced by the finished one."""
    features = results.summary("features")
    if features is None:
        raise ReportError(
            f"{results.data} holds no tables/features.parquet: run the experiment first, then `saesteer report {results.name}`"
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / _INDEX).is_file():
        raise ReportError(f"{folder} holds something else than a report: name another folder, or remove it")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    index = _index(results, features, partial) | {"files": results.files(ALL_SUMMARIES, _FILES_SHOWN, folder)}
    write_piece(partial, "index", as_json(index))
    for name in ASSETS:
        (partial / name).write_bytes(resources.files("saesteer.report.site").joinpath("assets", name).read_bytes())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder / "index.html"


def _index(results: Results, features: pl.DataFrame, folder: Path) -> dict[str, Any]:
    """What the page has to know before anything is chosen; writes all other pieces on its way."""
    experiment, methods, outcomes = results.experiment, results.summary("methods"), results.summary("outcomes")
    by_rule = None if outcomes is None else outcomes.filter(pl.col("rule") == experiment.best_factor.rule)
    return {
        "name": results.name,
        "description": experiment.description,
        "model": experiment.model.name,
        "headline": _headline(results),
        "figures": _copied_figures(results.figures, folder),
        "layers": _by_layer(features),
        "table": write_feature_table(folder, features, by_rule),
        "features": write_feature_pages(folder, results, features),
        "methods": None if methods is None else write_method_pages(folder, results, methods),
        "prompts": list(results.prompts.values())[:N_PROMPTS],
        "limits": {"n_prompts": len(results.prompts), "n_records": N_RECORDS, "rule": experiment.best_factor.rule},
        "missing": _missing(results),
        "mixed": _mixed(results),
    }


def _headline(results: Results) -> list[tuple[str, str, str]]:
    path = results.data / "metrics.json"
    return headline_rows(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def _copied_figures(figures: Path, folder: Path) -> list[list[str]]:
    """Copy the figures that are there; gives name and caption of each."""
    (folder / "figures").mkdir()
    there = [name for name in CAPTIONS if (figures / f"{name}.png").is_file()]
    for name in there:
        shutil.copyfile(figures / f"{name}.png", folder / f"figures/{name}.png")
    return [[name, CAPTIONS[name]] for name in there]


def _by_layer(features: pl.DataFrame) -> list[Any]:
    """Layer, features, and the medians of both scores."""
    medians = (pl.col(name).median() for name in ("input_score", "output_score"))
    return shortened(features.group_by("layer", maintain_order=True).agg(pl.len(), *medians)).rows()


def _mixed(results: Results) -> list[str]:
    """Tables whose rows were made with several versions of a library, and a judge's by several models under one name, in words."""
    mixed = {name: mixed_versions(results.manifests(name)) for name in _FILES_SHOWN}
    judge = results.experiment.judge
    if isinstance(judge, EndpointJudge):
        models = models_behind(judge, results.data / "judge/answers")
        mixed["judge"] |= {f"{judge.model} answered as": models} if len(models) > 1 else {}
    return [f"{name}: {library} {' and '.join(versions)}" for name, libraries in mixed.items() for library, versions in libraries.items()]


def _missing(results: Results) -> list[str]:
    """What the report lacks, and why, in words."""
    layers = sorted(results.experiment.layers)
    lacking = {
        "Steered texts of features": not results.manifests("gen_success") and results.summary("steering") is None,
        "Curves over factors": results.summary("steering") is None,
        "Ratings": not results.manifests("judge"),
        "Records": not results.manifests("records"),
        "Activations of every token of a record": not results.manifests("activations"),
        "Neighbours": any(results.decoder(layer) is None for layer in layers),
        "The comparison of methods": results.summary("methods") is None,
    }
    return [name for name, lacks in lacking.items() if lacks]
