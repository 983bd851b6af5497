"""Output score: does steering with a feature promote the tokens that the feature stands for? P1 (arXiv 2505.20063), section 3."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from saesteer.models import (
    LanguageModel,
    Prefill,
    depth_of,
    logit_chunks,
    pad_rows,
    plain_token_ids,
    prefill,
    residual_at,
    soft_capped,
    spliced_hidden,
)
from saesteer.saes import Sae, check_features, largest_code
from saesteer.steering import amplify
from saesteer.tables import OUTPUT_SCORE

ALGORITHM_VERSION = 1

VOCABULARY_CHUNK = 2048
"""Logits computed at a time for each row."""

SCHEMA = pl.Schema({name: dtype for name, dtype in OUTPUT_SCORE.schema.items() if name != "layer"})


@torch.no_grad()
def output_scores(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    features: Sequence[int],
    lens_token_ids: Int[Tensor, "feature k"],
    prompt: str,
    factor: float,
    batch: int = 512,
) -> pl.DataFrame:
    """Output score of each feature: steer the prompt's last position at the SAE's site of `layer` with factor * a_max * W_dec[f], read the
    next-token distribution p.

    S_out = (1 - min_rank / |V|) * max_prob over the feature's lens tokens; rank = number of tokens with a larger logit, so 0 is the
    likeliest. `a_max` is the largest code of the unsteered residual there, in the SAE's units; the same for every feature, because the
    prompt is. The prompt is always plain text, as in P1's program, also for a model that answers in a chat template: it is the beginning of
    a sentence to go on with, which a user's turn would turn into something to answer, and so it measures the feature's effect on running
    text, comparable between models.
    """
    check_features(features, sae.meta.n_features, f"the SAE of layer {layer}")
    if not features:
        return pl.DataFrame(schema=SCHEMA)
    depth = depth_of(lm, layer, sae.meta.site)
    token_ids = plain_token_ids(lm, prompt)
    prompt_run = prefill(lm, token_ids)
    residual = residual_at(lm, torch.tensor([token_ids], device=lm.device), depth)[:, -1]  # [1 d_model]
    a_max = largest_code(sae, pad_rows(residual))[:1]
    parts = []
    for start in range(0, len(features), batch):
        chosen = torch.tensor(list(features[start : start + batch]), device=lm.device)
        factors = torch.full((len(chosen),), factor, dtype=a_max.dtype, device=lm.device)
        steered = amplify(residual.expand(len(chosen), -1), sae.W_dec[chosen], factors, a_max.expand(len(chosen)))
        rank, probability = _best_lens_token(lm, prompt_run, depth, steered, lens_token_ids[start : start + batch].to(lm.device))
        parts.append(_table(lm, chosen, rank, probability, float(a_max)))
    return pl.concat(parts)


def _best_lens_token(
    lm: LanguageModel, prompt: Prefill, depth: int, steered: Float[Tensor, "row d_model"], lens: Int[Tensor, "row k"]
) -> tuple[Int[Tensor, " row"], Float64[Tensor, " row"]]:
    """Rank and probability of each row's likeliest lens token, from a pass over the vocabulary in chunks.

    The soft cap is monotone, so ranks are counted on raw logits; the token itself is left out of its count, because the chunk's arithmetic
    may differ from the gathered one in the last bit.
    """
    hidden = spliced_hidden(lm, prompt, depth, steered).float()
    lens_logits = _gathered_logits(lm, hidden, lens)  # [row k]
    best, where = lens_logits.max(dim=1, keepdim=True)  # [row 1]
    best_id = lens.gather(1, where)
    rank = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    log_sums = []
    for start, chunk in logit_chunks(lm, hidden.to(lm.dtype), VOCABULARY_CHUNK):
        logits = chunk.float()
        larger = logits > best
        inside = (best_id >= start) & (best_id < start + logits.shape[1])
        itself = larger.gather(1, (best_id - start).clamp(0, logits.shape[1] - 1)) & inside
        rank += larger.sum(dim=1) - itself.squeeze(1).long()
        log_sums.append((soft_capped(lm, logits) - soft_capped(lm, best)).logsumexp(dim=1))
    # Relative to the best lens token's logit, because a float32 near 0 is finer than one near the logits themselves.
    return rank, (-torch.stack(log_sums, dim=1).double().logsumexp(dim=1)).exp()


def _gathered_logits(lm: LanguageModel, hidden: Float[Tensor, "row d_model"], ids: Int[Tensor, "row k"]) -> Float[Tensor, "row k"]:
    """Raw logits of a few tokens per row."""
    logits = (lm.head.weight[ids].float() * hidden[:, None]).sum(dim=2)
    bias = getattr(lm.head, "bias", None)
    return logits if bias is None else logits + bias[ids].float()


def _table(
    lm: LanguageModel, features: Int[Tensor, " row"], rank: Int[Tensor, " row"], probability: Float64[Tensor, " row"], a_max: float
) -> pl.DataFrame:
    score = (1 - rank.double() / lm.n_vocab) * probability
    columns = {
        "feature": features.tolist(),
        "output_score": score.tolist(),
        "min_rank": rank.tolist(),
        "max_prob": probability.tolist(),
        "a_max": [a_max] * len(features),
    }
    return pl.DataFrame(columns, schema=SCHEMA)
