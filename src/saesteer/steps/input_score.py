"""P1's input score of each feature."""

from collections.abc import Iterator

import polars as pl

from saesteer.core.tables import FEATURE_KEYS, OF_FEATURE, Column, Table
from saesteer.run import Run
from saesteer.settings import Experiment
from saesteer.steps.logit_lens import LOGIT_LENS
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES
from saesteer.steps.step import Step, every_feature, layers_of, values_of

INPUT_SCORE = Table(
    "input_score",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "input_score": Column(pl.Float64, "P1's S_in, in [0, 1]", "too few max-activating examples; see reason"),
        "n_examples": Column(pl.UInt32, "max-activating examples it is the mean of"),
        "reason": Column(pl.String, "why input_score is null", "input_score is not null"),
    },
)

SCORE = INPUT_SCORE  # its columns are in the table of features


def step(experiment: Experiment) -> Step | None:
    settings, inputs = values_of(experiment.input_score), ("model", "max_activating_examples", "logit_lens")
    return Step(INPUT_SCORE, every_feature(experiment), settings, inputs, ("analysis.input_score",), compute)


def compute(run: Run, missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
    from saesteer.analysis.input_score import input_scores

    settings, layers = run.experiment.input_score, layers_of(missing)
    examples = run.rows(MAX_ACTIVATING_EXAMPLES, layers).join(missing, on=["layer", "feature"], how="semi")
    scores = input_scores(examples, run.rows(LOGIT_LENS, layers), run.tokens(), settings.tokens, settings.min_examples)
    yield from scores.partition_by("layer")
