"""SAE feature filtered by both scores: one that reads tokens and writes the same ones (P1, arXiv 2505.20063, section 3, defines both scores
and finds features that are high in both to be rare; P5, arXiv 2510.03659, compares selection by either)."""

from __future__ import annotations

import polars as pl

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import addition, best
from saesteer.methods.fit.sae_output_score import MIN_OUTPUT_SCORE, survivors

MIN_INPUT_SCORE = 0.1
"""Share of a feature's records whose maximum is on one of its lens tokens. No paper names one: that of the output score."""


def fit(problem: Problem) -> Addition:
    """Of the concept's features with both scores at their thresholds, the one of highest AUROC. Without records there is no input score."""
    rows = survivors(problem).filter(pl.col("input_score") >= MIN_INPUT_SCORE)
    otherwise = f"none of the concept's features has an output score of at least {MIN_OUTPUT_SCORE} and an input score of {MIN_INPUT_SCORE}"
    return addition(problem, best(rows, "auroc", otherwise))
