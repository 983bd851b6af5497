"""The judge's ratings as they count in every mean."""

from collections.abc import Sequence

import polars as pl

from saesteer.analysis.halves import split_halves
from saesteer.analysis.repeats import without_repeats
from saesteer.run import Run
from saesteer.settings import Comparison
from saesteer.steps.generations import GENERATIONS
from saesteer.steps.judge import JUDGEMENTS


def counted_ratings(run: Run, layers: Sequence[int] | None = None) -> pl.DataFrame:
    """The judge's rows as they count in every mean: the score of a text is 0 where it repeats what the same candidate wrote on other
    prompts of its half. Rows themselves do not depend on one another. No rows where the step has not run."""
    rows = run.rows_if_any(JUDGEMENTS, layers)
    texts = run.rows_if_any(GENERATIONS, layers, ["text"])
    halves = split_halves(run.prompts(), run.experiment.methods.factor_choice if isinstance(run.experiment, Comparison) else "held_out")
    joined = rows.join(texts.select(*GENERATIONS.keys, "text"), on=GENERATIONS.keys, how="left", maintain_order="left")
    return without_repeats(joined, [name for name in GENERATIONS.keys if name not in ("prefix_id", "sample")], halves).drop("text")
