"""Example features, chosen by a fixed rule, with an example, top logit-lens tokens and a steered text."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import EXAMPLES, FEATURES, GENERATIONS, MAX_ACTIVATING_EXAMPLES, OUTCOMES, of_features
from saesteer.run import Run
from saesteer.summaries.summary import Summary, sweeps


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.examples import N_FEATURES, examples

    experiment = run.sweep
    table = examples(
        run.summary(OUTCOMES),
        run.summary(FEATURES),
        run.rows(MAX_ACTIVATING_EXAMPLES),
        of_features(run.rows(GENERATIONS, None, ["text"])),
        list(run.prompts().values()),
        experiment.best_factor.rule,
        N_FEATURES,
        experiment.selection.late_layers_from,
    )
    return {EXAMPLES.name: table}


SUMMARY = Summary((EXAMPLES,), sweeps, compute)
