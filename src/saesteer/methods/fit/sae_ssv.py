"""SAE-SSV, supervised steering vectors in a small subspace of feature activations (arXiv 2505.16188, sections 3.1 and 3.2).

A text has one activation a feature: the mean over its tokens. The `K` features of largest F-statistic (eq. 4: variance between positive and
negative texts over variance within) are standardised; `N_PROBES` logistic probes, each on a random half of the texts, are averaged (eq. 6).
Features in the order of their absolute weight, the smallest number of them is taken for which the texts' cosines with the weights so cut
off are furthest apart (eq. 7; on the shipped model that is nearly all of them, also by texts that no probe was trained on, as in the
paper). On these a vector v is trained from the unit difference of class means (eq. 8), z' = z + v being a negative text's moved
activations, to minimise

    |z' - mu+|^2 - 1/2 |z' - mu-|^2 + 0.5 L_LM + 0.01 |v|_1

(eq. 9 with the authors' weights; the 1/2 is their program's: without it the first two terms have no minimum). What v writes is the vector.

What departs: the program reads the last token's activations, and its language-model loss is of a positive text where the model reads a
negative one whose last residual is moved; here L_LM is the loss of positive texts with what v writes added at every position, as the table
steers. It replaces that residual by the SAE's reconstruction; here the error stays. Probes have scikit-learn's default penalty on their
weights, |w|^2 / 2 beside the summed loss; the paper names none, and without one weights of separable texts have no limit.
"""

import polars as pl
import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn

from saesteer.engine.interventions import Addition
from saesteer.engine.saes import written_size
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.sae_features import best, candidates, combination, ranked, scored
from saesteer.methods.fit.ssv import steered_losses
from saesteer.methods.fit.training import read_texts

K = 128
N_PROBES = 50
LANGUAGE_MODEL, SPARSITY = 0.5, 0.01
"""Weights of L_LM and |v|_1."""
STEPS, BATCH, LEARNING_RATE = 100, 8, 0.01
"""Plain gradient descent: the paper's steps, and the program's rate and default batch (the paper's text: .05 and 64)."""


def fit(problem: Problem) -> Addition:
    """What the trained activations write, to unit norm."""
    positive, negative = (activations.double() for activations in problem.mean_activations())
    rows = scored(candidates(problem), "f", f_statistics(positive, negative)).filter(pl.col("f") > 0)
    best(rows, "f", "no feature's activations differ between positive and negative texts")
    features = torch.tensor(ranked(rows, "f")["feature"].head(K).to_list(), device=positive.device)
    features = features[subspace(positive[:, features], negative[:, features], problem.generator("sae_ssv probes"))]
    return combination(problem, features.tolist(), trained(problem, features, positive[:, features], negative[:, features]).float())


def f_statistics(positive: Float64[Tensor, "text_p feature"], negative: Float64[Tensor, "text_n feature"]) -> Float64[Tensor, " feature"]:
    """Each feature's F of two groups; 0 where their means are equal, infinite where they alone differ."""
    groups = (positive, negative)
    mean = torch.cat(groups).mean(dim=0)
    between = torch.stack([len(group) * (group.mean(dim=0) - mean) ** 2 for group in groups]).sum(dim=0)
    within = torch.stack([((group - group.mean(dim=0)) ** 2).sum(dim=0) for group in groups]).sum(dim=0)
    return torch.where(between > 0, between * (len(positive) + len(negative) - 2) / within, 0.0)


def subspace(
    positive: Float64[Tensor, "text_p feature"], negative: Float64[Tensor, "text_n feature"], generator: torch.Generator
) -> Int[Tensor, " k"]:
    """Columns of the features taken, the most important first."""
    activations, label = torch.cat([positive, negative]), torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).to(positive)
    activations = (activations - activations.mean(dim=0)) / activations.std(dim=0, unbiased=False)
    n = len(activations)
    halves = torch.stack([torch.randperm(n, generator=generator)[: n // 2] for _ in range(N_PROBES)]).to(activations.device)
    weights = probes(activations[halves], label[halves]).mean(dim=0)
    order = weights.abs().sort(descending=True, stable=True).indices
    return order[: int(separations(activations[:, order], label.bool(), weights[order]).argmax()) + 1]


@torch.enable_grad()
def probes(activations: Float64[Tensor, "probe text feature"], label: Float64[Tensor, "probe text"]) -> Float64[Tensor, "probe feature"]:
    """Weights of logistic regressions with a free bias, each trained to the end on its own texts."""
    weights = torch.zeros_like(activations[:, 0]).requires_grad_()
    bias = torch.zeros_like(activations[:, 0, :1]).requires_grad_()
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=1000, tolerance_grad=1e-6, tolerance_change=0, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = (activations @ weights[:, :, None])[:, :, 0] + bias
        total = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="sum") + weights.square().sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    return weights.detach()


def separations(
    activations: Float64[Tensor, "text feature"], positive: Tensor, weights: Float64[Tensor, " feature"]
) -> Float64[Tensor, " feature"]:
    """s(d) of the first d features, for every d: mean cosine of positive texts' activations with the d first weights, less that
    of negative texts'."""
    along = (activations * weights).cumsum(dim=1) / activations.norm(dim=1, keepdim=True) / weights.square().cumsum(dim=0).sqrt()
    return along[positive].mean(dim=0) - along[~positive].mean(dim=0)


@torch.enable_grad()
def trained(
    problem: Problem, features: Int[Tensor, " k"], positive: Float64[Tensor, "text_p k"], negative: Float64[Tensor, "text_n k"]
) -> Float64[Tensor, " k"]:
    """v, in activations of the features."""
    size = written_size(problem.sae.meta, problem.positive_tokens.read).median()  # of an SAE that divides what it reads by its size
    generator, directions = problem.generator("sae_ssv"), problem.sae.W_dec[features].float() * size
    read = read_texts(problem.lm, problem.hook_point, problem.positive)
    above, below = positive.mean(dim=0), negative.mean(dim=0)
    v = ((above - below) / (above - below).norm()).requires_grad_()
    for _ in range(STEPS):
        texts, moved = (torch.randint(len(group), (BATCH,), generator=generator).tolist() for group in (positive, negative))
        z = negative[moved] + v
        distance = (z - above).square().sum(dim=1) - (z - below).square().sum(dim=1) / 2
        fluency = steered_losses(problem, [read[text] for text in texts], directions.T @ v.float()).mean()
        (gradient,) = torch.autograd.grad(distance.mean() + LANGUAGE_MODEL * fluency + SPARSITY * v.abs().sum(), [v])
        with torch.no_grad():
            v -= LEARNING_RATE * gradient
    return v.detach()
