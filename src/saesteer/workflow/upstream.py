"""The rows of earlier steps that a step's rows are measured on, by their digests.

A fingerprint says how the earlier rows were computed, not what came out: on another machine rounding samples another token, an explanation
is fetched on another day, a language model writes another prompt. So each row names the digest of the rows that it reads: those that share
its values in the key columns of both tables (a text for its perplexity), or all of its layer where they share none (all scores for a fit).
"""

import polars as pl

from saesteer.core.row_digest import row_digests
from saesteer.core.store import MEASURED_ON, Upstream, entry_digest, read_manifest, read_rows
from saesteer.core.tables import Table, read_summary
from saesteer.settings import Experiment
from saesteer.workflow.keys import FeatureGenerations, Files, FitGenerations
from saesteer.workflow.steps import StepPlan, plans

_TARGETS = {FeatureGenerations: "feature", FitGenerations: "concept_id"}
"""What the column `target` of a text holds."""


def upstream(experiment: Experiment, step: str, layer: int, files: Files) -> Upstream | None:
    """What a step's rows of a layer are measured on; None: on models and files with pins only."""
    steps = plans(experiment)
    plan = steps[step]
    earlier = [name for name in plan.inputs if name in steps]
    frames = [_digests(plan, steps[name].table, read_rows(steps[name].table, [files[name]], [layer])) for name in earlier]
    frames += [_digests(plan, table, read_summary(table, files[table.name])) for table in plan.written]
    entries = {name: entry_digest(read_manifest(files[name])["layers"][str(layer)]) for name in earlier}
    return Upstream(frames, entries) if frames else None


def _digests(plan: StepPlan, table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    """The digests of an earlier table's rows, by the key columns that a row of the step shares with them."""
    target = _TARGETS.get(type(plan.keys))
    shared = [name for name in table.keys if name in plan.table.keys or name == target]
    digests = row_digests(table, rows, shared)
    digests = digests.select(*shared, pl.format(f"{table.name}:{{}}", "digest").alias(MEASURED_ON))
    return digests.rename({target: "target"}).cast({"target": pl.String}) if target in shared else digests
