"""Random control of supervised selection (P3, arXiv 2605.31183): as many features, the same edit, but drawn at random."""

from __future__ import annotations

import polars as pl
import torch

from saesteer.engine.interventions import CodeEdit
from saesteer.methods.fit.problem import Abstains, Problem
from saesteer.methods.fit.sae_features import candidates
from saesteer.methods.fit.supervised import at_largest_records, selected


def fit(problem: Problem) -> CodeEdit:
    """As many features as supervised selection takes, drawn among those with records; where that abstains, so does its control."""
    n = len(selected(problem))
    features = candidates(problem).filter(pl.col("n_records") > 0)["feature"].to_list()
    if len(features) < n:
        raise Abstains(f"{len(features)} features have records, fewer than the {n} to be drawn")
    drawn = torch.randperm(len(features), generator=problem.generator("supervised_random"))[:n].tolist()
    return at_largest_records(problem, [features[place] for place in drawn])
