"""Whether what holds for topics holds for other attributes of a text: which rule picks the feature that steers best."""

from collections.abc import Sequence

import polars as pl

from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_with_labelled_features
from studies.questions.tables import ATTRIBUTES

UNSTEERED = "unsteered"
BY_COLUMN = {
    "auroc": "AUROC",
    "cosine": "cosine with the difference of means",
    "max_activation": "max activation",
    "output_score": "output score",
}
"""Column of which a feature of the pool has the largest value -> what the rule is called."""
RANDOM, BEST = "random", "brute force"
"""The mean over the pool; the feature that scores highest on the prompts that choose factors."""
OF_A_FEATURE = (*BY_COLUMN.values(), RANDOM, BEST)
DIFFMEAN, DIFFMEAN_LAST = "DiffMean", "DiffMean, last position"
"""The difference of means, added at every position in multiples of its largest activation (P4), and as a feature's direction is."""
RULES = (*OF_A_FEATURE, DIFFMEAN, DIFFMEAN_LAST, UNSTEERED)


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.attributes import attributes

    return {ATTRIBUTES.name: attributes(run)}


SUMMARY = Summary((ATTRIBUTES,), steers_with_labelled_features, compute, runs_model=True)
