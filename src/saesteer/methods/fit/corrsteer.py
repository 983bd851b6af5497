"""CorrSteer (arXiv 2508.12535): the feature whose largest activation in a text correlates best with success, at its mean
activation on successes.

r_f = Cov(z_f, y) / sqrt(Var(z_f) Var(y)), Pearson's, with z_f the largest activation over the tokens that the model generated and y the
outcome. The feature of highest r is added with the mean of z_f over successes as its activation; those where it does not fire count as 0
(the authors' program, which takes the largest |r| only where it is told to).

What departs: the paper's outcome is whether the task was solved by the text that the model wrote. A fit has no judge and generates nothing,
so z is read from the labelled texts where they say something, and y is their label. For the same reason the second half of the method is
missing, in which features that do not raise the outcome when they are added are dropped. One layer is steered (CorrSteer-S), at every
position as all vectors here; the paper steers generated tokens only, with factor 1.
"""

import polars as pl
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import addition, best, candidates, scored


def fit(problem: Problem) -> Addition:
    """The feature of highest correlation, its mean largest activation on positive texts being factor 1."""
    positive, negative = problem.largest_activations
    rows = scored(candidates(problem), "correlation", correlations(positive, negative)).filter(pl.col("correlation") > 0)
    feature = best(rows, "correlation", "no feature's activations correlate with the concept's label")
    return addition(problem, feature, float(positive[:, feature].double().mean()))


def correlations(positive: Float[Tensor, "text_p feature"], negative: Float[Tensor, "text_n feature"]) -> Float64[Tensor, " feature"]:
    """Each feature's Pearson correlation with the label, 1 of positive texts and 0 of negative ones; 0 of a feature that is constant."""
    activations = torch.cat([positive, negative]).double()
    activations -= activations.mean(dim=0)
    label = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).to(activations)
    label -= label.mean()
    spread = activations.norm(dim=0) * label.norm()
    return torch.where(spread > 0, (label[:, None] * activations).sum(dim=0) / spread, 0.0)
