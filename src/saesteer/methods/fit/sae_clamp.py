"""SAE feature by its label, clamped (P4, arXiv 2501.17148): its code is set to factor * max_act at every position,
whatever it was, and the difference, decoded, is added."""

from __future__ import annotations

import torch

from saesteer.engine.interventions import CodeEdit
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import labelled, largest_record


def fit(problem: Problem) -> CodeEdit:
    """The labelled feature's code at its largest record."""
    feature, device = labelled(problem), problem.lm.device
    return CodeEdit(torch.tensor([feature], device=device), torch.tensor([largest_record(problem, feature)], device=device))
