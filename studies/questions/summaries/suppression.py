"""Which way of steering away from a concept lowers how much texts are about it, and at what cost."""

from collections.abc import Sequence

import polars as pl

from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_with_labelled_features
from studies.questions.tables import SUPPRESSION

OF_A_FEATURE = ("factor below 0", "ablated", "projected out", "clamped below 0")
"""Ways that edit one feature of a layer: its direction is subtracted at the last position; its activation set to 0; what positions have
along its direction taken away; its activation set to minus a multiple of its max activation where it is active."""
FURTHER = ("all ablated", "DiffMean subtracted", "DiffMean projected out")
"""The activations of all features with the label set to 0; the difference of means in place of a feature's direction."""
WAYS = (*OF_A_FEATURE, *FURTHER)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.suppression import suppression

    return {SUPPRESSION.name: suppression(run)}


SUMMARY = Summary((SUPPRESSION,), steers_with_labelled_features, compute, runs_model=True)
