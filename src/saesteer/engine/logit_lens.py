"""Logit lens: which tokens a decoder direction stands for, read through the model's own final norm and head."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.engine.head import raw_logits
from saesteer.engine.memory import Halving, rows_that_fit
from saesteer.engine.models import MIN_ROWS, LanguageModel, final_norm, pad_rows, shape_matters

ALGORITHM_VERSION = 1

MOST_ROWS = (128, 2048)
"""Most rows of logits at a time on a CPU and on a GPU."""


@torch.no_grad()
def top_logit_lens_tokens(
    lm: LanguageModel,
    decoder_rows: Float[Tensor, "feature width"],
    k: int,
    block: int | None = None,
    to_residual: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> tuple[Int[Tensor, "feature k"], Float[Tensor, "feature k"]]:
    """The k tokens with the largest `head(final_norm(W_dec[f]))` and these logits, largest first: P1 (arXiv 2505.20063), section 3.

    The raw decoder row, brought to the residual where it does not lie there (hook_points.to_residual), no b_dec, no soft cap. Equal
    logits: the smaller token id first. At most `block` x vocabulary logits exist at a time, fewer when memory runs out; None: as many as
    fit.
    """
    if not 1 <= k <= lm.n_vocab:
        raise ValueError(f"k is {k}, but must lie between 1 and the vocabulary's {lm.n_vocab} tokens")
    if block is not None and block < MIN_ROWS:
        raise ValueError(f"block is {block}, but no forward runs below {MIN_ROWS} rows")
    ids = torch.empty(len(decoder_rows), k, dtype=torch.long)
    values = torch.empty(len(decoder_rows), k)

    def looked_up(part: slice, size: int) -> None:
        rows = decoder_rows[part].to(lm.device)
        padded = pad_rows(rows, size) if shape_matters(lm) else rows
        logits = raw_logits(lm, final_norm(lm, to_residual(padded)))[: len(rows)]  # [feature vocab]
        top_ids, top_values = _largest(logits, k)
        ids[part], values[part] = top_ids.cpu(), top_values.cpu()

    rows_at_a_time = block or rows_that_fit(16 * lm.n_vocab, lm.device, MOST_ROWS)
    for _ in Halving("logit lens", lm.device).over(len(decoder_rows), rows_at_a_time, looked_up):
        pass
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
