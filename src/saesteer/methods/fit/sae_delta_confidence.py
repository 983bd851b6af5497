"""SAE feature by delta token confidence (P5, arXiv 2510.03659): the feature that, added at the end of a neutral prompt, makes the model
least sure of its likeliest next token.

log max p(unsteered) - log max p(steered), steered with 10 * a_max * W_dec[f]; k = 1 token. It is computed together with the output score
(`engine.output_score`), at that step's prompt and factor, which are P5's strength by default. P5 ranks features that were given labels
beforehand; here those that detect the concept's training texts.
"""

from __future__ import annotations

import polars as pl

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import addition, best, detectors


def fit(problem: Problem) -> Addition:
    """Of the concept's features, the one of highest delta token confidence."""
    rows = detectors(problem).filter(pl.col("delta_token_confidence").is_not_null())
    return addition(problem, best(rows, "delta_token_confidence", "none of the concept's features has a delta token confidence"))
