"""What the card reports of an SAE, on rows that it was not trained on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.head import token_nll
from saesteer.engine.models import LanguageModel, hidden_states, residual_changed
from saesteer.engine.saes import Sae, decode, encode
from studies.public.activations import ROWS_AT_ONCE, Rows


@dataclass(frozen=True)
class Quality:
    """How well an SAE stands for its layer's residuals."""

    explained_variance: float  # 1 - squared error / variance, summed over coordinates: a few large ones decide it
    median_explained: float  # the same of each coordinate by itself, the median over coordinates
    l0: float  # mean active features a token
    dead: float  # share of features that are active on none of the tokens
    tokens: int


@torch.no_grad()
def quality(sae: Sae, x: Float[Tensor, "token d_in"]) -> Quality:
    """On stored residuals."""
    active, error = 0.0, torch.zeros(x.shape[1], dtype=torch.float64)
    fired = torch.zeros(sae.meta.n_features, dtype=torch.bool)
    for part in x.split(4096):
        code = encode(sae, part.float())
        error += (part.float() - decode(sae, code)).double().square().sum(0)
        active += float((code > 0).sum())
        fired |= (code > 0).any(0)
    mean = torch.stack([part.double().mean(0) * len(part) / len(x) for part in x.split(65536)]).sum(0)
    variance = torch.stack([(part.double() - mean).square().sum(0) for part in x.split(65536)]).sum(0)
    explained, of_each = 1 - error.sum() / variance.sum(), 1 - error / variance
    return Quality(float(explained), float(of_each.median()), active / len(x), float((~fired).double().mean()), len(x))


@dataclass(frozen=True)
class Losses:
    """Mean losses on the same tokens, in nats a token."""

    plain: float
    zeros: float  # with zeros for the residual behind a layer, at all tokens but the first

    def recovered(self, reconstructed: float) -> float:
        """Loss recovered by a reconstruction: 1 where it costs nothing, 0 where it costs as much as zeros."""
        return (self.zeros - reconstructed) / (self.zeros - self.plain)


def losses_without_sae(lm: LanguageModel, layer: int, rows: Rows) -> Losses:
    """What SAEs of a layer are compared with."""
    return Losses(*(_loss(lm, layer, rows, instead) for instead in (lambda residual: residual, torch.zeros_like)))


def loss_with_sae(lm: LanguageModel, sae: Sae, rows: Rows) -> float:
    """The loss where the SAE's reconstruction stands for the residual at all tokens but the first."""
    return _loss(lm, sae.meta.layer, rows, lambda residual: decode(sae, encode(sae, residual)))


def replaced(lm: LanguageModel, layer: int, instead: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Within the context, what `instead` makes of it stands for the residual behind a layer, at all tokens but the first."""
    return residual_changed(lm, layer + 1, lambda x: torch.cat([x[:, :1], instead(x[:, 1:])], dim=1))


@torch.no_grad()
def _loss(lm: LanguageModel, layer: int, rows: Rows, instead: Callable[[Tensor], Tensor]) -> float:
    total = count = 0.0
    for start in range(0, len(rows.ids), ROWS_AT_ONCE):
        ids, used = (torch.from_numpy(part[start : start + ROWS_AT_ONCE]) for part in (rows.ids, rows.used))
        with replaced(lm, layer, instead):
            hidden = hidden_states(lm, input_ids=ids, use_cache=False)
        counted = used[:, 1:] & used[:, :-1]  # not the first text token, which only the unchanged first position predicts
        losses = token_nll(lm, hidden[:, :-1][counted], ids[:, 1:][counted], 256)
        total, count = total + float(losses.sum()), count + len(losses)
    return total / count
