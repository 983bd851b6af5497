"""Several SAE features at once: the best detectors of the concept that survive the output score's filter (P1, arXiv 2505.20063),
added up.

Each feature counts with what it writes in its largest record, max_act * W_dec[f], all with weight 1. The sum is one vector as any other:
unit norm, and scaled by its largest activation on the concept's texts (P4, arXiv 2501.17148).
"""

from __future__ import annotations

import torch

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Abstains, Problem, steering_scale
from saesteer.methods.fit.sae_features import largest_record, ranked
from saesteer.methods.fit.sae_output_score import MIN_OUTPUT_SCORE, survivors

K = 5
"""Features added up; fewer where fewer survive."""


def fit(problem: Problem) -> Addition:
    """The unit vector of the sum over the K survivors of highest AUROC of max_act * W_dec[f]."""
    features = ranked(survivors(problem), "auroc")["feature"].head(K).to_list()
    if not features:
        raise Abstains(f"none of the concept's features has an output score of at least {MIN_OUTPUT_SCORE}")
    total = torch.stack([largest_record(problem, feature) * problem.sae.W_dec[feature].float() for feature in features]).sum(dim=0)
    vector = total / total.norm()
    return Addition(vector, steering_scale(vector, problem.positive_tokens), features=tuple(features))
