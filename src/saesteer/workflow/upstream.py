"""The rows of earlier steps that a step's rows are measured on, by their digests.

A fingerprint says how the earlier rows were computed, not what came out: on another machine rounding samples another token, an explanation
is fetched on another day, a language model writes another prompt. So each row names the digest of the rows that it reads: those that share
its values in the key columns of both tables (a text for its perplexity), or all of its layer where they share none (all scores for a fit).
"""

import polars as pl

from saesteer.core.row_digest import row_digests
from saesteer.core.store import MEASURED_ON, Upstream, entry_digest, read_manifest
from saesteer.core.tables import Table
from saesteer.run import Run
from saesteer.settings import Comparison
from saesteer.steps.step import Step, steps_of


def upstream(run: Run, step: str, layer: int) -> Upstream | None:
    """What a step's rows of a layer are measured on; None: on models and files with pins only."""
    steps = steps_of(run.experiment)
    plan = steps[step]
    earlier = [name for name in plan.inputs if name in steps]
    tables = [(steps[name].table, run.rows(steps[name].table, [layer])) for name in earlier]
    tables += [(table, run.summary(table)) for table in plan.written]
    of_texts = "concept_id" if isinstance(run.experiment, Comparison) else "feature"
    target = of_texts if "target" in plan.table.keys else None
    frames = [_digests(plan, table, rows, target) for table, rows in tables]
    entries = {name: _entry_digest(run, name, layer) for name in earlier}
    return Upstream(frames, entries) if frames else None


def _entry_digest(run: Run, step: str, layer: int) -> str:
    (manifest,) = run.manifests(step, [layer])
    return entry_digest(read_manifest(manifest)["layers"][str(layer)])


def _digests(plan: Step, table: Table, rows: pl.DataFrame, target: str | None) -> pl.DataFrame:
    """The digests of an earlier table's rows, by the key columns that a row of the step shares with them; `target` is what the column of
    that name holds."""
    shared = [name for name in table.keys if name in plan.table.keys or name == target]
    digests = row_digests(table, rows, shared)
    digests = digests.select(*shared, pl.format(f"{table.name}:{{}}", "digest").alias(MEASURED_ON))
    return digests.rename({target: "target"}).cast({"target": pl.String}) if target in shared else digests
