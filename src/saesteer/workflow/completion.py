"""The completion of a step: its missing rows are computed, and its manifest is written."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import polars as pl

from saesteer.core.store import complete
from saesteer.run import Run
from saesteer.steps.step import Step, step_of
from saesteer.workflow.code_digest import code_digest
from saesteer.workflow.plan import wanted_rows

LIBRARIES = ("torch", "transformers", "tokenizers", "sae-lens", "numpy", "polars")
"""Libraries whose arithmetic, tokenisers or models rows come from: parts name their versions."""


def complete_manifest(run: Run, manifest: Path, layers: Sequence[int], compute: Callable[[pl.DataFrame], Iterable[pl.DataFrame]]) -> None:
    """See to the rows of a step's manifest, which covers these layers; `compute` gives those that are missing."""
    name = manifest.parent.name
    step = step_of(run.experiment, name)
    wanted = wanted_rows(run, name, layers)
    complete(manifest.parent, step.table, wanted, compute, manifest, run.workflow.part_seconds, lambda: _made_with(step))


def _made_with(step: Step) -> dict[str, str]:
    libraries = {library: importlib.metadata.version(library) for library in LIBRARIES}
    return {"code": code_digest(*step.modules), "python": platform.python_version(), **libraries}
