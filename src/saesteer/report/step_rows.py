"""The rows of an experiment's steps, by the manifests that its plan names: what lies there besides is of other groups of layers or of
features that were removed."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from saesteer.core.errors import SettingsError
from saesteer.core.store import read_rows
from saesteer.core.tables import ASKED_CONCEPTS, Table, read_summary
from saesteer.settings import Experiment
from saesteer.workflow.plan import manifests


def present_manifests(folder: Path, experiment: Experiment, step: str) -> list[Path]:
    """Those of the step's manifests that are there, in the experiment's data folder."""
    return [path for path in manifests(folder, experiment, step) if path.is_file()]


def rows_of(table: Table, folder: Path, experiment: Experiment, layers: Sequence[int] | None = None) -> pl.DataFrame:
    """Rows of a step, of some layers or all."""
    present = present_manifests(folder, experiment, table.name)
    if not present:
        raise SettingsError(f"{folder} holds no {table.name}: run the comparison first (`snakemake methods`)")
    return read_rows(table, present, layers)


def asked_concepts(folder: Path) -> pl.DataFrame:
    """The concepts of a comparison."""
    return read_summary(ASKED_CONCEPTS, folder / "tables/asked_concepts.parquet")
