"""SAE feature filtered by output score (P1, arXiv 2505.20063).

P1's AxBench experiment takes the labelled feature and drops the concept where its output score is below a threshold. Here the concept's
features are those that detect its training texts; those below the threshold are dropped, and the best detector of the rest is taken. Where
none is left the method abstains, which P1 leaves out of its mean.
"""

from __future__ import annotations

import polars as pl

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import addition, best, detectors

MIN_OUTPUT_SCORE = 0.1
"""The threshold of the best row of P1's Table 1."""


def survivors(problem: Problem) -> pl.DataFrame:
    """The concept's features, with `auroc`, that steering with them promotes the tokens of."""
    return detectors(problem).filter(pl.col("output_score") >= MIN_OUTPUT_SCORE)


def fit(problem: Problem) -> Addition:
    """Of the concept's features that survive, the one of highest AUROC."""
    otherwise = f"none of the concept's features has an output score of at least {MIN_OUTPUT_SCORE}"
    return addition(problem, best(survivors(problem), "auroc", otherwise))
