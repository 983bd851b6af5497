"""SAE-A (P4, arXiv 2501.17148, section 4): the feature that best tells the concept's training texts from others."""

from __future__ import annotations

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import addition, best, with_auroc


def fit(problem: Problem) -> Addition:
    """The feature of highest AUROC, by a text's largest code."""
    return addition(problem, best(with_auroc(problem), "auroc", "the layer has no scored feature"))
