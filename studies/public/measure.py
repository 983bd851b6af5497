"""What the card reports of an SAE, on rows that it was not trained on."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Float16
from torch import Tensor

from saesteer.engine.head import token_nll
from saesteer.engine.models import LanguageModel, hidden_states, residual_changed
from saesteer.engine.saes import Sae, decode, encode
from studies.public.activations import ROWS_AT_ONCE, Rows


@dataclass(frozen=True)
class Quality:
    """How well an SAE stands for its layer's residuals."""

    explained_variance: float  # 1 - squared error / variance, summed over coordinates
    l0: float  # mean active features a token
    dead: float  # share of features that are active on none of the tokens
    tokens: int


@torch.no_grad()
def quality(sae: Sae, x: Float16[Tensor, "token d_in"]) -> Quality:
    """On stored residuals."""
    error = active = 0.0
    fired = torch.zeros(sae.meta.n_features, dtype=torch.bool)
    for part in x.split(4096):
        code = encode(sae, part.float())
        error += float((part.float() - decode(sae, code)).double().square().sum())
        active += float((code > 0).sum())
        fired |= (code > 0).any(0)
    mean = torch.stack([part.double().mean(0) * len(part) / len(x) for part in x.split(65536)]).sum(0)
    variance = sum(float((part.double() - mean).square().sum()) for part in x.split(65536))
    return Quality(1 - error / variance, active / len(x), float((~fired).double().mean()), len(x))


@torch.no_grad()
def loss_recovered(lm: LanguageModel, sae: Sae, rows: Rows) -> tuple[float, float, float, float]:
    """(loss with zeros - loss with the reconstruction) / (loss with zeros - the model's loss), and the three losses in nats a token: the
    residual behind the layer is replaced at all tokens but the first."""

    def with_reconstruction(residual: Tensor) -> Tensor:
        x = residual[:, 1:].flatten(0, 1)
        return torch.cat([residual[:, :1], decode(sae, encode(sae, x)).view_as(residual[:, 1:])], dim=1)

    def with_zeros(residual: Tensor) -> Tensor:
        return torch.cat([residual[:, :1], torch.zeros_like(residual[:, 1:])], dim=1)

    plain, reconstructed, zeros = (_loss(lm, sae, rows, change) for change in (None, with_reconstruction, with_zeros))
    return (zeros - reconstructed) / (zeros - plain), plain, reconstructed, zeros


def _loss(lm: LanguageModel, sae: Sae, rows: Rows, change: Callable[[Tensor], Tensor] | None) -> float:
    total = count = 0.0
    for start in range(0, len(rows.ids), ROWS_AT_ONCE):
        ids, used = (torch.from_numpy(part[start : start + ROWS_AT_ONCE]) for part in (rows.ids, rows.used))
        with residual_changed(lm, sae.meta.layer + 1, change) if change else nullcontext():
            hidden = hidden_states(lm, input_ids=ids, use_cache=False)
        counted = used[:, 1:] & used[:, :-1]  # not the first text token, which only the unchanged first position predicts
        losses = token_nll(lm, hidden[:, :-1][counted], ids[:, 1:][counted], 256)
        total, count = total + float(losses.sum()), count + len(losses)
    return total / count
