"""Logit lens: which tokens a decoder direction stands for, read through the model's own final norm and head."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.models import MIN_ROWS, LanguageModel, final_norm, raw_logits

ALGORITHM_VERSION = 1


@torch.no_grad()
def lens_tokens(
    lm: LanguageModel, decoder_rows: Float[Tensor, "feature d_model"], k: int, block: int = 128
) -> tuple[Int[Tensor, "feature k"], Float[Tensor, "feature k"]]:
    """The k tokens with the largest `head(final_norm(W_dec[f]))` and these logits, largest first: P1 (arXiv 2505.20063), section 3.

    The raw decoder row, no b_dec, no soft cap. Equal logits: the smaller token id first. At most `block` x vocabulary logits exist at a
    time.
    """
    if not 1 <= k <= lm.n_vocab:
        raise ValueError(f"k is {k}, but must lie between 1 and the vocabulary's {lm.n_vocab} tokens")
    if block < MIN_ROWS:
        raise ValueError(f"block is {block}, but no forward runs below {MIN_ROWS} rows")
    ids = torch.empty(len(decoder_rows), k, dtype=torch.long)
    values = torch.empty(len(decoder_rows), k)
    for start in range(0, len(decoder_rows), block):
        part = slice(start, start + block)
        logits = raw_logits(lm, final_norm(lm, decoder_rows[part].to(lm.device)))  # [feature vocab]
        top_ids, top_values = _largest(logits.float(), k)
        ids[part], values[part] = top_ids.cpu(), top_values.cpu()
    return ids, values


def _largest(logits: Float[Tensor, "row vocab"], k: int) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """The k largest of each row, by value, then by smaller index. `topk` leaves the order among equals open, so they are put right
    afterwards."""
    values, ids = logits.topk(k, dim=1)
    # Equals that `topk` had to cut apart: which of them it kept is not defined, so those rows are sorted whole.
    cut = (logits >= values[:, -1:]).sum(dim=1) > k
    if bool(cut.any()):
        ids[cut] = logits[cut].sort(dim=1, descending=True, stable=True).indices[:, :k]
    ids = ids.sort(dim=1).values
    values, order = logits.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return ids.gather(1, order), values
