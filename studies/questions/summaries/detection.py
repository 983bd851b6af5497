"""How well ways of detecting a concept tell texts on it from others."""

from collections.abc import Sequence

import polars as pl

from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_with_labelled_features
from studies.questions.tables import DETECTION

LABELLED, BY_AUROC = "SAE feature, by label", "SAE feature, by AUROC"
"""The largest activation of the feature with the label and the largest max activation; of the one that tells training texts best apart."""
DIFFMEAN, PROBE, WORDS = "DiffMean", "probe", "bag of words"
"""The largest projection on the difference of means; logistic regressions on the mean residual, and on counts of tokens."""
WAYS = (LABELLED, BY_AUROC, DIFFMEAN, PROBE, WORDS)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.detection import detection

    return {DETECTION.name: detection(run)}


SUMMARY = Summary((DETECTION,), steers_with_labelled_features, compute, runs_model=True)
