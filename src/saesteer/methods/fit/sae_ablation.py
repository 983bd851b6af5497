"""SAE feature by causal ablation: the one whose removal raises the loss on the concept's texts most.

Removing feature f takes code_f * W_dec[f] off the residual at every token that the texts say (context left out, as wherever codes are read;
P4, arXiv 2501.17148); the SAE's error stays. The rise of the mean loss per token is measured with the model as it then is, positive texts
less negative ones. An alternative that reviewers asked for; a forward a feature and batch, so only the best detectors are tried.
"""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.models import residual_changed
from saesteer.engine.saes import Sae, encode
from saesteer.methods.fit.problem import Problem, Text, output_mask, text_batches
from saesteer.methods.fit.sae_features import addition, best, n_output_tokens, ranked, residual_as_leaf, with_auroc
from saesteer.methods.fit.training import token_losses

N_CANDIDATES = 32
"""Features tried: those of highest AUROC on the training texts."""


def only(sae: Sae, features: list[int]) -> Sae:
    """The SAE cut down to some features, in the given order."""
    cut = {"W_enc": sae.W_enc[:, features]} | {name: getattr(sae, name)[features] for name in ("b_enc", "threshold", "W_dec")}
    return replace(sae, **cut, meta=replace(sae.meta, n_features=len(features)))


@torch.no_grad()
def measured_rise(problem: Problem, texts: tuple[Text, ...], features: list[int]) -> Float64[Tensor, " feature"]:
    """By how much removing each of some features from the texts raises their mean loss per token (nats)."""
    sae = only(problem.sae, features)
    return torch.stack([_rises(problem, some, sae) for some in text_batches(texts)]).sum(dim=0) / n_output_tokens(texts)


def _rises(problem: Problem, texts: tuple[Text, ...], sae: Sae) -> Float64[Tensor, " feature"]:
    """Rise of the summed loss of a batch of texts by removing each of the SAE's features."""
    with residual_as_leaf(problem.lm, problem.depth) as read:
        unchanged = token_losses(problem.lm, texts).split([n_output_tokens([text]) for text in texts])
    codes = encode(sae, read[0].detach()) * output_mask(texts, problem.lm.device)[:, :, None]  # [text seq feature]
    rise = torch.zeros(sae.meta.n_features, dtype=torch.float64)
    for place in range(sae.meta.n_features):
        # Only where it fires: removing what is not there changes nothing.
        rows = torch.nonzero(codes[:, :, place].amax(dim=1) > 0).flatten().tolist()
        if rows:
            written = codes[rows, :, place, None] * sae.W_dec[place]
            losses = _losses_without(problem, [texts[row] for row in rows], written)
            rise[place] = float((losses - torch.cat([unchanged[row] for row in rows])).double().sum())
    return rise


def _losses_without(problem: Problem, texts: list[Text], written: Float[Tensor, "text seq d_model"]) -> Float[Tensor, " token"]:
    """Losses of what the texts say when what a feature wrote is taken off the residual."""

    def without(residual: Tensor) -> Tensor:
        return residual - written[:, : residual.shape[1]].to(residual.dtype)  # padded to the longest text of a larger batch

    with residual_changed(problem.lm, problem.depth, without):
        return token_losses(problem.lm, texts)


def fit(problem: Problem) -> Addition:
    """Of the `N_CANDIDATES` best detectors, the feature of largest measured rise, positive texts less negative ones."""
    rows = ranked(with_auroc(problem), "auroc").head(N_CANDIDATES)
    features = rows["feature"].to_list()
    rise = measured_rise(problem, problem.positive, features) - measured_rise(problem, problem.negative, features)
    rows = rows.with_columns(pl.Series("rise", rise.numpy())).filter(pl.col("rise") > 0)
    return addition(problem, best(rows, "rise", "no feature's removal raises the loss on positive texts more than on negative ones"))
