"""What a summary is, and the ratings that all of them count. Modules of this room have `SUMMARIES`, each by the name of its rule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import polars as pl

import saesteer.summaries
from saesteer.analysis.halves import split_halves
from saesteer.analysis.repeats import without_repeats
from saesteer.core.modules import declared
from saesteer.core.tables import Table
from saesteer.run import Run
from saesteer.settings import Comparison, Experiment, Sweep
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS


@dataclass(frozen=True)
class Summary:
    tables: tuple[Table, ...]
    exists: Callable[[Experiment], bool]
    """Whether an experiment has these tables."""
    compute: Callable[[Run, Sequence[int]], Mapping[str, pl.DataFrame]]
    """Each table by its name, of some layers."""
    by_layer: bool = False
    """Whether each table has a file for each layer, in a folder of the table's name."""

    @property
    def function(self) -> str:
        """What computes it, as saesteer.workflow.code_digest names it."""
        return f"{self.compute.__module__.partition('.')[2]}:{self.compute.__name__}"

    def files(self, experiment: Experiment) -> list[str]:
        """The files of all tables, in the experiment's folder."""
        if self.by_layer:
            return [f"{table.name}/layer_{layer:02d}.parquet" for table in self.tables for layer in sorted(experiment.layers)]
        return [table.path for table in self.tables]


@cache
def summaries() -> dict[str, Summary]:
    """Every summary, by its name."""
    return {name: summary for of_module in declared(saesteer.summaries, "SUMMARIES").values() for name, summary in of_module.items()}


def summary_tables() -> dict[str, Table]:
    """Every table that is made from tables, by its name."""
    return {table.name: table for summary in summaries().values() for table in summary.tables}


def summaries_of(experiment: Experiment) -> dict[str, Summary]:
    """The summaries of an experiment, by name."""
    return {name: summary for name, summary in summaries().items() if summary.exists(experiment)}


def every_experiment(experiment: Experiment) -> bool:
    return True


def sweeps(experiment: Experiment) -> bool:
    return isinstance(experiment, Sweep)


def compares(experiment: Experiment) -> bool:
    return isinstance(experiment, Comparison)


def counted_ratings(run: Run, layers: Sequence[int] | None = None) -> pl.DataFrame:
    """The judge's rows as they count in every mean: the score of a text is 0 where it repeats what the same candidate wrote on other
    prompts of its half. Rows themselves do not depend on one another. No rows where the step has not run."""
    rows = run.rows_if_any(JUDGEMENTS, layers)
    texts = run.rows_if_any(GENERATIONS, layers, ["text"])
    halves = split_halves(run.prompts(), run.experiment.methods.factor_choice if isinstance(run.experiment, Comparison) else "held_out")
    joined = rows.join(texts.select(*GENERATIONS.keys, "text"), on=GENERATIONS.keys, how="left", maintain_order="left")
    return without_repeats(joined, [name for name in GENERATIONS.keys if name not in ("prefix_id", "sample")], halves).drop("text")
