"""Logit lens: which tokens a decoder direction promotes and suppresses, read through the model's own final norm and head."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.engine.finite import rows_named
from saesteer.engine.head import raw_logits
from saesteer.engine.memory import Halving, rows_that_fit
from saesteer.engine.models import LanguageModel, final_norm, pad_rows, shape_matters

ALGORITHM_VERSION = 3

MOST_ROWS = (128, 2048)
"""Most rows of logits at a time on a CPU and on a GPU."""


class LensTokens(NamedTuple):
    """Tokens of each feature and their logits, in order."""

    ids: Int[Tensor, "feature k"]
    logits: Float[Tensor, "feature k"]


def _as_it_is(rows: Tensor) -> Tensor:
    return rows


def top_logit_lens_tokens(
    lm: LanguageModel,
    decoder_rows: Float[Tensor, "feature width"],
    k: int,
    to_residual: Callable[[Tensor], Tensor] = _as_it_is,
) -> LensTokens:
    """The k tokens that each feature promotes most, as in `logit_lens_tokens`."""
    return logit_lens_tokens(lm, decoder_rows, k, to_residual)[0]


@torch.no_grad()
def logit_lens_tokens(
    lm: LanguageModel,
    decoder_rows: Float[Tensor, "feature width"],
    k: int,
    to_residual: Callable[[Tensor], Tensor] = _as_it_is,
) -> tuple[LensTokens, LensTokens]:
    """The k tokens with the largest `head(final_norm(W_dec[f]))`, largest first (P1, arXiv 2505.20063, section 3), and the k with the
    smallest, smallest first: what a feature promotes and suppresses most.

    The raw decoder row, brought to the residual where it does not lie there (hook_points.to_residual), no b_dec, no soft cap. Left out are
    rows of the head without a token, and tokens that the model's `lens_tokens` leaves out. Equal logits: the smaller token id first.
    """
    n_tokens = int(lm.in_lens.sum())
    if not 1 <= k <= n_tokens:
        raise ValueError(f"k is {k}, but must lie between 1 and the vocabulary's {n_tokens} tokens")
    n, left_out = len(decoder_rows), ~lm.in_lens
    promoted, suppressed = (LensTokens(torch.empty(n, k, dtype=torch.long), torch.empty(n, k)) for _ in range(2))

    def looked_up(part: slice, size: int) -> None:
        rows = decoder_rows[part].to(lm.device)
        padded = pad_rows(rows, size) if shape_matters(lm) else rows
        with rows_named(lambda row: f"decoder row {part.start + row} of those given"):
            logits = raw_logits(lm, final_norm(lm, to_residual(padded)))[: len(rows)]  # [feature vocab]
        for end, descending in ((promoted, True), (suppressed, False)):
            ids, values = _first(logits.masked_fill_(left_out, -math.inf if descending else math.inf), k, descending)
            end.ids[part], end.logits[part] = ids.cpu(), values.cpu()

    rows_at_a_time = rows_that_fit(16 * lm.n_vocab, lm.device, MOST_ROWS)
    for _ in Halving("logit lens", lm.device).over(n, rows_at_a_time, looked_up):
        pass
    return promoted, suppressed


def _first(logits: Float[Tensor, "row vocab"], k: int, descending: bool) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """The first k of each row in the order of value, then of index. `topk` leaves the order among equals open, so they are put right
    afterwards."""
    values, ids = logits.topk(k, dim=1, largest=descending)
    # Equals that `topk` had to cut apart: which of them it kept is not defined, so those rows are sorted whole.
    last = values[:, -1:]
    cut = (logits >= last if descending else logits <= last).sum(dim=1) > k
    if bool(cut.any()):
        ids[cut] = logits[cut].sort(dim=1, descending=descending, stable=True).indices[:, :k]
    ids = ids.sort(dim=1).values
    values, order = logits.gather(1, ids).sort(dim=1, descending=descending, stable=True)
    return ids.gather(1, order), values
