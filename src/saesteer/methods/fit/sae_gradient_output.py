"""SAE feature by gradient attribution on the output side: the one whose addition would, to first order, make its own top logit-lens tokens
likelier.

For each of the concept's features f, the derivative at 0 with respect to s of the mean over f's top logit-lens tokens t of log p(t), when
s * W_dec[f] / |W_dec[f]| is added at the last position of a neutral prompt; that is, the gradient of this mean with respect to the residual
there, dotted with the unit decoder direction. The prompts are the training texts' contexts, each once, over which it is averaged. It is the
output score (P1, arXiv 2505.20063) without its large step: nats a unit of residual, not a probability at 10 * a_max. An alternative that
reviewers asked for; a backward pass a feature.
"""

from collections.abc import Iterator
from itertools import chain, islice, zip_longest

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.models import hidden_states, pad_rows
from saesteer.methods.fit.problem import Problem, TrainingText, padded_ids
from saesteer.methods.fit.sae_features import addition, best, detectors, direction, ranked, residual_as_leaf
from saesteer.methods.fit.training import logits_with_gradients

MOST_FEATURES = 256
"""Most of the concept's features that are tried: those of highest AUROC."""
N_CONTEXTS = 16
"""Contexts averaged over, where there are more: the first ones, of a positive and a negative text in turn."""


def contexts(problem: Problem) -> tuple[TrainingText, ...]:
    """What the training texts follow, without their outputs; each once."""
    in_turn: Iterator[TrainingText | None] = chain.from_iterable(zip_longest(problem.positive, problem.negative))
    distinct = dict.fromkeys(tuple(text.ids[: text.n_context]) for text in in_turn if text is not None)
    return tuple(TrainingText(list(ids), len(ids)) for ids in islice(distinct, N_CONTEXTS))


@torch.enable_grad()
def promotions(problem: Problem, features: list[int], lens: list[list[int]]) -> Float64[Tensor, " feature"]:
    """Slope of the mean log-probability of each feature's top logit-lens tokens along its unit direction, mean over contexts; nats a
    unit."""
    lm, prompts = problem.lm, contexts(problem)
    last = torch.tensor([len(prompt.ids) - 1 for prompt in prompts], device=lm.device)
    rows = torch.arange(len(prompts), device=lm.device)
    with residual_as_leaf(lm, problem.hook_point) as leaves:
        hidden = hidden_states(lm, input_ids=pad_rows(padded_ids(lm, prompts)), use_cache=False)
    residual, _ = leaves[0]  # [row seq d_model]
    log_p = logits_with_gradients(lm, hidden[rows, last]).log_softmax(dim=1)  # [prompt vocab]
    slopes = torch.zeros(len(features), dtype=torch.float64)
    for n, (feature, token_ids) in enumerate(zip(features, lens, strict=True)):
        (gradient,) = torch.autograd.grad(log_p[:, token_ids].mean(dim=1).sum(), residual, retain_graph=True)
        slopes[n] = (gradient[rows, last].float() @ direction(problem, feature)).mean().double()
    return slopes


def fit(problem: Problem) -> Addition:
    """The one of the concept's features that promotes its top logit-lens tokens most."""
    rows = ranked(detectors(problem), "auroc").head(MOST_FEATURES)
    slopes = promotions(problem, rows["feature"].to_list(), rows["top_logit_lens_token_ids"].to_list())
    rows = rows.with_columns(pl.Series("slope", slopes.numpy())).filter(pl.col("slope") > 0)
    return addition(problem, best(rows, "slope", "none of the concept's features promotes its own top logit-lens tokens"))
