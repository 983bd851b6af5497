"""What is on disk of an experiment: the tables that a report is made from, each with where it lies and its digest."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.core.files import file_digest
from saesteer.core.store import read_manifest, read_rows
from saesteer.core.tables import ALL_SUMMARIES, Table, read_summary
from saesteer.report.step_rows import present_manifests
from saesteer.settings import Experiment, Workflow, settings_of
from saesteer.sources.pins import converted_sae
from saesteer.sources.prefixes import read_prefixes
from saesteer.sources.published import kept_at

_NO_TABLES = {"saes": Table("saes", (), {})}
"""Manifests of what numbers come from, too, though it is no table."""


@dataclass(frozen=True)
class Results:
    name: str
    experiment: Experiment
    data: Path
    """The experiment's folder of tables."""
    figures: Path
    prompts: Mapping[str, str] = field(default_factory=dict)
    """prefix_id -> prompt, in order."""

    def summary(self, name: str) -> pl.DataFrame | None:
        """A summary table, None where there is none."""
        path = self._summary_path(name)
        return read_summary(ALL_SUMMARIES[name], path) if path.is_file() else None

    def rows(self, table: Table, layers: Sequence[int], columns: Sequence[str] | None = None) -> pl.DataFrame | None:
        """Rows of a step, None where there are none of these layers."""
        of_layers = [path for path in self.manifests(table.name) if {*layers} & {int(layer) for layer in read_manifest(path)["layers"]}]
        return read_rows(table, of_layers, layers, columns) if of_layers else None

    def manifests(self, step: str) -> list[Path]:
        """The step's manifests that there are."""
        return present_manifests(self.data, self.experiment, step)

    def decoder(self, layer: int) -> Path | None:
        """The converted SAE of a layer, None where it is not on this machine."""
        for manifest in self.manifests("saes"):
            if str(layer) in read_manifest(manifest)["layers"]:
                fetched = self.data.parent / "downloads" / self.name / "saes" / manifest.name
                path = converted_sae(manifest, fetched if fetched.is_file() else None, layer)
                return path if path.is_file() else None
        return None

    def files(self, tables: Mapping[str, Table], steps: Mapping[str, Table], seen_from: Path) -> list[dict[str, Any]]:
        """Each table that is there: its files as seen from the report's folder, with digests, and what its columns mean."""
        there = [(table, [self._summary_path(name)]) for name, table in tables.items()]
        there += [(table, self.manifests(name)) for name, table in {**steps, **_NO_TABLES}.items()]
        return [
            {
                "table": table.name,
                "files": [[self._shown(path), _address(path, seen_from), file_digest(path)] for path in paths],
                "columns": [[name, column.meaning, column.null_when] for name, column in table.columns.items()],
            }
            for table, paths in there
            if paths and paths[0].is_file()
        ]

    def _summary_path(self, name: str) -> Path:
        return self.data / f"tables/{name}.parquet"

    def _shown(self, path: Path) -> str:
        return f"{self.name}/{path.relative_to(self.data).as_posix()}"


def _address(path: Path, seen_from: Path) -> str:
    return Path(os.path.relpath(path.resolve(), seen_from.resolve())).as_posix()


def results_of(name: str, experiment: Experiment, workflow: Workflow) -> Results:
    """The results of an experiment where a workflow keeps them."""
    data, figures = workflow.data_dir / name, workflow.figures_dir / name
    return Results(name, experiment, data, figures, _prompts(experiment, workflow.data_dir / "downloads"))


def _prompts(experiment: Experiment, downloads: Path) -> dict[str, str]:
    """The prompts of the steered texts; none where nothing is generated, or while their file is not there."""
    if experiment.until == "scores":
        return {}
    if experiment.until == "methods":
        compared = settings_of(experiment)
        own, published, n = compared.prompts, compared.published_prompts, compared.n_prompts
    else:
        own, published, n = experiment.sweep.prefixes, experiment.sweep.published_prefixes, experiment.sweep.n_prefixes
    path = own or kept_at(str(published), downloads)
    return read_prefixes(path, n) if path.is_file() else {}
