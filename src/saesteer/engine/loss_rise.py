"""The mean loss of texts while each of many vectors is added at a hook point, and how strongly a vector is to be added to raise it by so
many nats a token.

In a forward over whole texts what lies at the hook point does not depend on what is added there, so it is read once, and of every vector's
forward only the blocks above run, for many vectors together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from saesteer.engine.head import rows_of_logits, token_nll
from saesteer.engine.hook_points import HookPoint, hidden_after, reading
from saesteer.engine.memory import Halving
from saesteer.engine.models import MIN_ROWS, LanguageModel, fewest_texts, pad_rows, padded_ids, shape_matters

VECTORS_AT_A_TIME = 32
"""Vectors in one forward."""


@dataclass(frozen=True)
class UnsteeredTexts:
    """Texts as the model reads them at a hook point, and what is added to them where a vector is."""

    value: Float[Tensor, "text seq width"]
    read: Float[Tensor, "text seq d_read"]  # hook_points.Reading
    past: Float[Tensor, "text seq d_model"] | None  # hook_points.Reading
    targets: Int[Tensor, " token"]  # tokens whose loss is counted
    predicting: tuple[Int[Tensor, " token"], Int[Tensor, " token"]]  # text and position before each
    multiple: Float[Tensor, "text seq"]  # of a vector, that is added at each position


def unsteered(lm: LanguageModel, hook_point: HookPoint, texts: Sequence[Sequence[int]], n_context: int = 1) -> UnsteeredTexts:
    """Texts (token ids) whose first `n_context` tokens are not predicted. Vectors are added once at every position."""
    ids, is_text = padded(texts, max(map(len, texts)))
    text, position = is_text[:, n_context:].nonzero(as_tuple=True)
    position += n_context - 1
    targets = ids[text, position + 1].to(lm.device)
    at_hook_point = reading(lm, ids.to(lm.device), hook_point)
    predicting, ones = (text.to(lm.device), position.to(lm.device)), torch.ones(ids.shape, device=lm.device)
    return UnsteeredTexts(at_hook_point.value, at_hook_point.read, at_hook_point.past, targets, predicting, ones)


def padded(texts: Sequence[Sequence[int]], width: int) -> tuple[Int[Tensor, "text seq"], Bool[Tensor, "text seq"]]:
    """Token ids, padded at the end, and where there is text."""
    return padded_ids(texts, width), torch.arange(width) < torch.tensor([len(text) for text in texts])[:, None]


@torch.no_grad()
def loss_rises(
    lm: LanguageModel, hook_point: HookPoint, vectors: Float[Tensor, "vector width"], of: UnsteeredTexts
) -> Float64[Tensor, " vector"]:
    """By how much each vector raises the mean loss of the texts, in nats a token."""
    return _losses(lm, hook_point, vectors, of) - _losses(lm, hook_point, torch.zeros_like(vectors[:1]), of)


@torch.no_grad()
def strengths_at_rise(
    lm: LanguageModel,
    hook_point: HookPoint,
    directions: Float[Tensor, "vector width"],
    of: UnsteeredTexts,
    target: float,
    octaves: tuple[Float64[Tensor, " vector"], Float64[Tensor, " vector"]],
    halvings: int,
) -> tuple[Float64[Tensor, " vector"], Int[Tensor, " vector"]]:
    """The multiple of each direction that raises the mean loss of the texts by `target` nats a token, between 2 to the power of each of
    `octaves`; and whether it lies there (0), below (-1) or above (1) (`at_rise`)."""
    base = _losses(lm, hook_point, torch.zeros_like(directions[:1]), of)

    def rise(strengths: Float64[Tensor, " vector"]) -> Float64[Tensor, " vector"]:
        return _losses(lm, hook_point, (directions.double() * strengths[:, None]).float(), of) - base

    return at_rise(rise, target, octaves, halvings)


def at_rise(
    rise_of: Callable[[Tensor], Tensor],
    target: float,
    octaves: tuple[Float64[Tensor, " vector"], Float64[Tensor, " vector"]],
    halvings: int,
) -> tuple[Float64[Tensor, " vector"], Int[Tensor, " vector"]]:
    """The strengths at which each rise is `target`, between 2 to the power of each of `octaves`, and whether they lie there (0), below (-1)
    or above (1).

    The range is halved, in the logarithm, and the rise interpolated in what is left, where it is nearly a straight line; it is taken to
    grow with the strength. What passes the target beyond the range gets that end of it.
    """
    low, high = octaves
    below, above = torch.full_like(low, torch.nan), torch.full_like(low, torch.nan)  # rises at low and high, measured or not
    for _ in range(halvings):
        middle = (low + high) / 2
        rise = rise_of(middle.exp2())
        less = rise < target
        low, below = torch.where(less, middle, low), torch.where(less, rise, below)
        high, above = torch.where(less, high, middle), torch.where(less, above, rise)
    share = ((target - below) / (above - below)).where(~below.isnan(), 0.0).where(~above.isnan(), 1.0)
    return (low + share * (high - low)).exp2(), above.isnan().long() - below.isnan().long()


def _losses(
    lm: LanguageModel, hook_point: HookPoint, vectors: Float[Tensor, "vector width"], of: UnsteeredTexts
) -> Float64[Tensor, " vector"]:
    """Mean loss of the texts under each vector; only the model above the hook point runs."""
    n_texts, width = of.value.shape[:2]
    least = -(-fewest_texts(lm, width) // n_texts)
    n_rows = rows_of_logits(lm)

    def losses(part: slice, size: int) -> Tensor:
        rows = pad_rows(vectors[part], size if shape_matters(lm) else least)
        added = rows[:, None, None] * of.multiple[None, :, :, None]
        steered = (of.value[None] + added.to(of.value.dtype)).flatten(0, 1)  # [vector*text seq width]
        past = None if of.past is None else of.past.repeat(len(rows), 1, 1)
        hidden = hidden_after(lm, hook_point.place, steered, past).unflatten(0, (len(rows), -1))
        predicting = hidden[:, *of.predicting]  # [vector token d_model]
        at_once = max(MIN_ROWS, n_rows * size // VECTORS_AT_A_TIME)
        nll = token_nll(lm, predicting.flatten(0, 1), of.targets.repeat(len(rows)), at_once)
        return nll.unflatten(0, (len(rows), -1)).mean(dim=1)[: len(vectors[part])]

    return torch.cat(list(Halving("loss under vectors", lm.device, least=1).over(len(vectors), VECTORS_AT_A_TIME, losses)))
