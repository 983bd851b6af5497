"""A language model's head: logits of final hidden rows, whole or in parts of the vocabulary, in float32 whatever the model's format."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from saesteer.engine.finite import check_finite, check_logits
from saesteer.engine.models import MIN_ROWS, LanguageModel, pad_columns, pad_rows, shape_matters
from saesteer.engine.precision import is_narrow, product

ALGORITHM_VERSION = 1

HEAD_PART = 8192
"""Tokens whose rows of a narrow head are widened at a time on a CPU."""

LOGITS_AT_A_TIME = (2**24, 2**28)
"""Most logits held at a time on a CPU and on a GPU, in float32, where losses are read."""

MOST_ROWS = 8192
"""Most rows of them, whatever the vocabulary: where shapes matter, fewer are padded."""

PIECE = ((512, 1024), (8192, 2**15))
"""Most rows and tokens of the vocabulary whose logits are held at a time on a CPU, where they stay in its cache, and on a GPU."""


def scaled(lm: LanguageModel, logits: Tensor) -> Tensor:
    """Raw head outputs multiplied by the model's scale, where it has one."""
    scale = lm.structure.logit_scale
    return logits if scale == 1 else logits * scale


def soft_capped(lm: LanguageModel, logits: Tensor) -> Tensor:
    """Raw head outputs as the model's own logits: scaled where the model scales them, cap * tanh(logits / cap) where it has a cap."""
    logits, cap = scaled(lm, logits), lm.structure.final_logit_softcapping
    return logits if cap is None else (logits / cap).tanh_().mul_(cap)


def raw_logits(lm: LanguageModel, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """The head applied to final hidden rows, no scale, no soft cap, at no fewer than `MIN_ROWS` rows; in float32 also of a narrower
    model. Refused where they are not finite."""
    logits = unchecked_logits(lm, hidden)
    check_logits(logits, lm.head.weight)
    return logits


def unchecked_logits(lm: LanguageModel, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """Raw logits, finite or not, for rows that are judged one by one."""
    padded = pad_rows(hidden)
    if is_narrow(lm.dtype) and lm.device.type == "cpu":
        logits = torch.empty(len(padded), lm.n_vocab)
        for start, part in logit_chunks(lm, padded, HEAD_PART):
            logits[:, start : start + HEAD_PART] = part
    else:
        logits = _head(lm, padded, slice(None))
    return logits[: hidden.shape[0]]


def logit_chunks(lm: LanguageModel, hidden: Float[Tensor, "row d_model"], chunk: int) -> Iterator[tuple[int, Float[Tensor, "row part"]]]:
    """Raw logits (no scale, no soft cap) in pieces of the vocabulary, each with its first token id: memory stays at rows x
    chunk. In float32 also of a narrower model."""
    padded = pad_rows(hidden)
    for start in range(0, lm.n_vocab, chunk):
        yield start, _head(lm, padded, slice(start, start + chunk))[: hidden.shape[0]]


def rows_of_logits(lm: LanguageModel) -> int:
    """How many rows of logits to hold at a time where losses are read; where shapes matter, always as many, unless memory has run out."""
    return min(MOST_ROWS, max(MIN_ROWS, LOGITS_AT_A_TIME[lm.device.type == "cuda"] // lm.n_vocab))


def rows_of_pieces(lm: LanguageModel) -> int:
    """`rows_of_logits` for pieces of the vocabulary."""
    return PIECE[lm.device.type == "cuda"][0]


def token_nll(
    lm: LanguageModel, hidden: Float[Tensor, "token d_model"], targets: Int[Tensor, " token"], n_rows: int, n_tokens: int | None = None
) -> Float64[Tensor, " token"]:
    """-log p of each target under the model's own logits, `n_rows` at a time; where shapes matter, the head sees as many in any case. By
    pieces of `n_tokens` of the vocabulary; None: whole."""
    losses, precise = [], torch.promote_types(hidden.dtype, torch.float32)
    for rows, tokens in zip(hidden.split(n_rows), targets.split(n_rows), strict=True):
        seen = pad_rows(rows, n_rows) if shape_matters(lm) else rows
        normalisers, largest, of_targets = [], [], torch.empty(len(rows), device=lm.device, dtype=precise)
        for start, raw in logit_chunks(lm, seen, n_tokens) if n_tokens else [(0, unchecked_logits(lm, seen))]:
            largest.append(raw.amax(dim=1))
            logits = soft_capped(lm, raw[: len(rows)])
            normalisers.append(pad_columns(logits, -math.inf).logsumexp(dim=1))
            (here,) = ((tokens >= start) & (tokens < start + raw.shape[1])).nonzero(as_tuple=True)
            of_targets[here] = logits[here, tokens[here] - start]
        check_finite("logits are", torch.stack(largest, dim=1).amax(dim=1), lm.head.weight)
        losses.append((torch.stack(normalisers, dim=1).logsumexp(dim=1) - of_targets).double())
    return torch.cat(losses)


def piecewise_nll(
    lm: LanguageModel, hidden: Float[Tensor, "token d_model"], targets: Int[Tensor, " token"], n_rows: int
) -> Float64[Tensor, " token"]:
    """`token_nll` by pieces of the vocabulary: 1.6 times as fast for 262,144 tokens on a CPU, and other by rounding, which pilot factors of
    before depend on."""
    n_pieces = -(-lm.n_vocab // PIECE[lm.device.type == "cuda"][1])
    return token_nll(lm, hidden, targets, n_rows, -(-lm.n_vocab // n_pieces))


def _head(lm: LanguageModel, hidden: Float[Tensor, "row d_model"], tokens: slice) -> Float[Tensor, "row part"]:
    weight, bias = lm.head.weight[tokens], getattr(lm.head, "bias", None)
    if not is_narrow(lm.dtype):
        return nn.functional.linear(hidden, weight, None if bias is None else bias[tokens])
    logits = product(hidden, weight.T)
    return logits if bias is None else logits + bias[tokens]
