"""SAE feature by gradient attribution on the input side: the one whose removal would, to first order, raise the loss on the concept's texts
most.

Removing feature f at a token takes its activation z_f times W_dec[f] off the residual there, so the loss rises by about
-z_f * (gradient . W_dec[f]), gradient being the loss's with respect to the residual at the SAE's hook point. Summed over the texts' outputs
(contexts left out, as wherever activations are read; P4, arXiv 2501.17148), positive texts less negative ones. An alternative that
reviewers asked for; `sae_ablation` measures exactly what is estimated here.
"""

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.saes import encode, written_size
from saesteer.methods.fit.problem import Problem, TrainingText, text_batches
from saesteer.methods.fit.sae_features import addition, best, candidates, residual_as_leaf, scored
from saesteer.methods.fit.training import token_losses


def first_order_rise(problem: Problem, texts: tuple[TrainingText, ...]) -> Float64[Tensor, " n_features"]:
    """By how much removing each feature from the texts would raise their mean loss per token (nats), to first order."""
    sae, n_tokens = problem.sae, sum(text.n_output for text in texts)
    rise = torch.zeros(sae.meta.n_features, dtype=torch.float64, device=problem.lm.device)
    for batch in text_batches(texts):
        with torch.enable_grad(), residual_as_leaf(problem.lm, problem.hook_point) as leaves:
            loss = token_losses(problem.lm, batch).mean()
            residual, read = leaves[0]  # [text seq d_model], [text seq d_read]
            (gradient,) = torch.autograd.grad(loss, residual)  # [text seq d_model]
        for text, row, slope in zip(batch, read, gradient, strict=True):
            output = slice(text.n_context, len(text.ids))
            along = slope[output].to(sae.W_dec) @ sae.W_dec.T  # [token n_features]
            written = encode(sae, row[output]) * written_size(sae.meta, row[output])[:, None]
            rise -= sum(text.n_output for text in batch) / n_tokens * (written * along).sum(dim=0).double()
    return rise


def fit(problem: Problem) -> Addition:
    """The feature of largest first-order rise, positive texts less negative ones."""
    rise = first_order_rise(problem, problem.positive) - first_order_rise(problem, problem.negative)
    rows = scored(candidates(problem), "rise", rise).filter(pl.col("rise") > 0)
    return addition(problem, best(rows, "rise", "no feature's removal would raise the loss on positive texts more than on negative ones"))
