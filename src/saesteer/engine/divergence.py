"""How far steering takes next-token distributions from the unsteered ones."""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from saesteer.engine.head import raw_logits, rows_of_logits, soft_capped
from saesteer.engine.models import MIN_ROWS, LanguageModel

ALGORITHM_VERSION = 1


def rows_at_a_time(lm: LanguageModel) -> int:
    """Of logits, where there are those of two models."""
    return max(MIN_ROWS, rows_of_logits(lm) // 2)


def log_probabilities(lm: LanguageModel, hidden: Float[Tensor, "token d_model"]) -> Iterator[Float[Tensor, "part vocab"]]:
    """Next-token log-probabilities of final hidden rows, some rows at a time."""
    for part in hidden.split(rows_at_a_time(lm)):
        yield soft_capped(lm, raw_logits(lm, part)).log_softmax(dim=1)


def compared(
    lm: LanguageModel,
    hidden: Float[Tensor, "token d_model"],
    targets: Int[Tensor, " token"],
    unsteered: Iterable[Float[Tensor, "part vocab"]],
) -> tuple[Float64[Tensor, " token"], Float64[Tensor, " token"]]:
    """Each token's -log p under steering, and the Kullback-Leibler divergence of the steered distribution there from the unsteered one, sum
    p_unsteered (log p_unsteered - log p_steered); both in nats. A token is predicted from a row of `hidden`, unsteered from one of
    `unsteered` (log_probabilities)."""
    losses, divergences = [], []
    for log_p, log_q, tokens in zip(log_probabilities(lm, hidden), unsteered, targets.split(rows_at_a_time(lm)), strict=True):
        losses.append(-log_p.gather(1, tokens[:, None])[:, 0].double())
        divergences.append((log_q.exp() * (log_q - log_p)).sum(dim=1).double())
    return torch.cat(losses), torch.cat(divergences)
