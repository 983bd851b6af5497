"""Whether several features at once steer better than one, and two concepts at once."""

from collections.abc import Sequence

import polars as pl

from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_with_labelled_features
from studies.questions.tables import CONCEPT_PAIRS, FEATURE_SETS

GREEDY, BY_ACTIVATION = "greedy", "max activation"
"""How sets are chosen: beginning with the best single feature, always adding the one with which the judge score is highest; the features
of the largest max activations."""


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.feature_sets import tables_of_sets

    return tables_of_sets(run)


SUMMARY = Summary((FEATURE_SETS, CONCEPT_PAIRS), steers_with_labelled_features, compute, runs_model=True)
