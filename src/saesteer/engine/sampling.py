"""Drawing tokens from logits by given uniform numbers."""

import math

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from saesteer.engine.models import pad_columns

ALGORITHM_VERSION = 1

NOTHING = -1
"""In place of a token, where logits are no numbers to draw one by."""

_LOWEST_TEMPERATURE = 1e-200
"""Below it quotients overflow; any lower one would draw the same, as the likeliest token has all of the probability."""

NUMBERS_AT_A_TIME = (2**18, 2**24)
"""Most float64 numbers at a time where the whole vocabulary is sampled from, on a CPU (as its caches hold) and on a GPU; at least a row."""


def sample_tokens(
    logits: Float[Tensor, "row vocab"], numbers: Float64[Tensor, " row"], temperature: float, top_k: int, top_p: float = 1.0
) -> Int[Tensor, " row"]:
    """One token a row from softmax(logits / temperature) over the top_k largest and, of them, the nucleus of top_p, by inverse CDF in
    token id order from the row's uniform number; `NOTHING` where a logit is NaN or +inf, or all are -inf."""
    if temperature == 0:
        best = logits.argmax(dim=1)
        return torch.where(logits.gather(1, best[:, None]).squeeze(1).isfinite(), best, NOTHING)
    if not 0 < top_k < logits.shape[1]:
        n_rows = max(1, NUMBERS_AT_A_TIME[logits.device.type == "cuda"] // logits.shape[1])
        pairs = zip(logits.split(n_rows), numbers.split(n_rows), strict=True)
        places = torch.cat([_places(pad_columns(part, -math.inf), drawn, temperature, top_p) for part, drawn in pairs])
        return places.clamp(max=logits.shape[1] - 1)
    ids = largest_ids(logits, top_k).sort(dim=1).values
    places = _places(logits.gather(1, ids), numbers, temperature, top_p)
    return torch.where(places == NOTHING, NOTHING, ids.gather(1, places.clamp(min=0)[:, None]).squeeze(1))


def _places(logits: Float[Tensor, "row k"], numbers: Float64[Tensor, " row"], temperature: float, top_p: float) -> Int[Tensor, " row"]:
    """Where each row's number falls in the running sum of softmax(logits / temperature), which is NaN throughout where it is anywhere."""
    probabilities = torch.softmax(logits.double().div_(max(temperature, _LOWEST_TEMPERATURE)), dim=1)
    nowhere = probabilities[:, 0].isnan()
    if top_p < 1:  # the nucleus (arXiv 1904.09751): no more than it takes to have at least top_p together; of equals the first
        ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
        likelier = ordered.cumsum(dim=1) - ordered
        nucleus = torch.zeros_like(probabilities, dtype=torch.bool).scatter(1, order, likelier < top_p)
        probabilities = torch.where(nucleus, probabilities, 0.0)
    cumulative = probabilities.cumsum(dim=1)
    place = torch.searchsorted(cumulative, (numbers * cumulative[:, -1])[:, None], right=True).squeeze(1)
    return torch.where(nowhere, NOTHING, place.clamp(max=logits.shape[1] - 1))


def largest_ids(logits: Float[Tensor, "row vocab"], k: int) -> Int[Tensor, "row k"]:
    """Ids of each row's k largest logits, in no particular order.

    The k largest lie in the k groups of tokens with the largest maxima, so only those are searched: a third of `topk`'s time at 2,000
    tokens.
    """
    n_vocab = logits.shape[1]
    size = max(1, math.isqrt(n_vocab // k))
    n_whole = n_vocab // size * size  # what is left over is a group too
    whole, rest = logits[:, :n_whole].unflatten(1, (-1, size)), logits[:, n_whole:]
    maxima = whole.amax(dim=2) if not rest.shape[1] else torch.cat([whole.amax(dim=2), rest.amax(dim=1, keepdim=True)], dim=1)
    groups = maxima.topk(min(k, maxima.shape[1]), dim=1, sorted=False).indices  # [row k]
    ids = (groups[:, :, None] * size + torch.arange(size, device=logits.device)).flatten(1)  # [row k*size]
    candidates = logits.gather(1, ids.clamp(max=n_vocab - 1)).masked_fill_(ids >= n_vocab, -math.inf)
    return ids.gather(1, candidates.topk(k, dim=1, sorted=False).indices).clamp_(max=n_vocab - 1)  # where fewer than k are finite
