"""SAE feature by mutual information between its activation and the concept's label.

Binary on both sides: whether the feature fires anywhere in a text (activation above 0: no threshold to be fitted), and whether the text
shows the concept. I = sum over the four cells of p(fires, label) log(p(fires, label) / (p(fires) p(label))), in nats, from counts of texts.
It is as high for a feature that fires only where the concept is absent, so only those are taken that fire in a larger share of positive
texts.
"""

import polars as pl
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import addition, best, candidates, scored


def mutual_information(
    fired_positive: Int[Tensor, " feature"], fired_negative: Int[Tensor, " feature"], n_positive: int, n_negative: int
) -> Float64[Tensor, " feature"]:
    """Nats between firing and label, from the numbers of positive and of negative texts in which a feature fires."""
    fired_p = torch.arange(n_positive + 1, dtype=torch.float64)[:, None].expand(-1, n_negative + 1)
    fired_n = torch.arange(n_negative + 1, dtype=torch.float64)[None].expand(n_positive + 1, -1)
    joint = torch.stack([fired_p, fired_n, n_positive - fired_p, n_negative - fired_n]).reshape(2, 2, *fired_p.shape)
    joint = joint / (n_positive + n_negative)  # [fires label fired_p fired_n]
    independent = joint.sum(dim=0, keepdim=True) * joint.sum(dim=1, keepdim=True)
    information = (torch.xlogy(joint, joint) - torch.xlogy(joint, independent)).sum(dim=(0, 1))
    # Looked up in a table of all counts, so that equal counts give equal numbers whatever vector instructions do.
    return information.to(fired_positive.device)[fired_positive, fired_negative]


def fit(problem: Problem) -> Addition:
    """The feature that says most about the label among those that fire in a larger share of positive than of negative texts."""
    positive, negative = (activations > 0 for activations in problem.largest_activations)
    fired_positive, fired_negative = positive.sum(dim=0), negative.sum(dim=0)
    information = mutual_information(fired_positive, fired_negative, len(positive), len(negative))
    more_often = positive.double().mean(dim=0) - negative.double().mean(dim=0)
    rows = scored(scored(candidates(problem), "information", information), "more_often", more_often).filter(pl.col("more_often") > 0)
    return addition(problem, best(rows, "information", "no feature fires in a larger share of positive than of negative texts"))
