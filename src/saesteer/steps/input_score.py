"""P1's input score of each feature."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import INPUT_SCORE, LOGIT_LENS, MAX_ACTIVATING_EXAMPLES
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.steps.step import Step, every_feature, layers_of, values_of


def step(experiment: Experiment) -> Step | None:
    settings, inputs = values_of(experiment.input_score), ("model", "max_activating_examples", "logit_lens")
    return Step(INPUT_SCORE, every_feature(experiment), settings, inputs, ("analysis.input_score",), compute)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.input_score import input_scores

    settings, layers = run.experiment.input_score, layers_of(missing)
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, layers).join(missing, on=["layer", "feature"], how="semi")
    scores = input_scores(examples, run.rows(LOGIT_LENS, layers), run.tokens(), settings.tokens, settings.min_examples)
    yield from scores.partition_by("layer")
