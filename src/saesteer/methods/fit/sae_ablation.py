"""SAE feature by causal ablation: the one whose removal raises the loss on the concept's texts most.

Removing feature f takes code_f * W_dec[f] off the residual at every token that the texts say (context left out, as wherever codes are read;
P4, arXiv 2501.17148); the SAE's error stays. The rise of the mean loss per token is measured with the model as it then is, positive texts
less negative ones. An alternative that reviewers asked for; a row of a forward for each text that a feature fires in, so only the best
detectors are tried.
"""

from __future__ import annotations

import polars as pl
import torch
from jaxtyping import Float64
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.models import MIN_ROWS, pad_rows
from saesteer.engine.saes import encode_some, written_size
from saesteer.engine.sites import reading
from saesteer.methods.fit.problem import Problem, Text, output_mask, padded_ids, text_batches
from saesteer.methods.fit.sae_features import addition, best, n_output_tokens, ranked, with_auroc
from saesteer.methods.fit.training import summed_losses

N_CANDIDATES = 32
"""Features tried: those of highest AUROC on the training texts."""


@torch.no_grad()
def measured_rise(problem: Problem, texts: tuple[Text, ...], features: list[int]) -> Float64[Tensor, " feature"]:
    """By how much removing each of some features from the texts raises their mean loss per token (nats)."""
    return torch.stack([_rises(problem, some, features) for some in text_batches(texts)]).sum(dim=0) / n_output_tokens(texts)


def _rises(problem: Problem, texts: tuple[Text, ...], chosen: list[int]) -> Float64[Tensor, " feature"]:
    """Rise of the summed loss of a batch of texts by removing each of some features: the model above the SAE's site, `MIN_ROWS` texts with
    a feature removed in every forward."""
    lm, ids = problem.lm, padded_ids(problem.lm, texts)
    outputs = output_mask(texts, lm.device)
    made = reading(lm, ids, problem.site)  # [text seq width]
    codes = encode_some(problem.sae, made.read, chosen) * outputs[:, :, None]  # [text seq feature]
    directions, size = problem.sae.W_dec[chosen], written_size(problem.sae.meta, made.read)

    def losses_of(value: Tensor, rows: Tensor) -> Float64[Tensor, " row"]:
        past = None if made.past is None else made.past[rows]
        return summed_losses(lm, problem.site.place, value, past, ids[rows], outputs[rows])

    every = pad_rows(torch.arange(len(texts), device=lm.device))
    unchanged = losses_of(made.value[every], every)
    # Only where it fires: removing what is not there changes nothing.
    feature, text = (codes.amax(dim=1) > 0).T.nonzero(as_tuple=True)
    rise = torch.zeros(len(chosen), len(texts), dtype=torch.float64, device=lm.device)
    for start in range(0, len(text), MIN_ROWS):
        features, rows = feature[start : start + MIN_ROWS], text[start : start + MIN_ROWS]
        written = (codes[rows, :, features] * size[rows])[:, :, None] * directions[features][:, None]
        losses = losses_of(pad_rows(made.value[rows] - written.to(made.value.dtype)), pad_rows(rows))
        rise[features, rows] = losses[: len(rows)] - unchanged[rows]
    return rise.sum(dim=1).cpu()


def fit(problem: Problem) -> Addition:
    """Of the `N_CANDIDATES` best detectors, the feature of largest measured rise, positive texts less negative ones."""
    rows = ranked(with_auroc(problem), "auroc").head(N_CANDIDATES)
    features = rows["feature"].to_list()
    rise = measured_rise(problem, problem.positive, features) - measured_rise(problem, problem.negative, features)
    rows = rows.with_columns(pl.Series("rise", rise.numpy())).filter(pl.col("rise") > 0)
    return addition(problem, best(rows, "rise", "no feature's removal raises the loss on positive texts more than on negative ones"))
