"""What decoder rows alone say about their features: how sure the logit lens is, and whether a row is that of a single token."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.head import raw_logits, scaled
from saesteer.engine.models import LanguageModel, final_norm

ROWS_AT_A_TIME = 256


@torch.no_grad()
def decoder_quantities(
    lm: LanguageModel, rows: Float[Tensor, "feature width"], to_residual: Callable[[Tensor], Tensor] = lambda rows: rows
) -> pl.DataFrame:
    """lens_confidence (log probability, nats, of the likeliest token of head(final_norm(row)); no soft cap) and head_cosine (largest cosine
    with a row of the head), a line a decoder row."""
    confidence, cosine = [], []
    head = torch.nn.functional.normalize(lm.head.weight.float(), dim=1)
    for part in rows.split(ROWS_AT_A_TIME):
        residual = to_residual(part.to(lm.device))
        confidence.append(scaled(lm, raw_logits(lm, final_norm(lm, residual))).double().log_softmax(dim=1).amax(dim=1))
        cosine.append((torch.nn.functional.normalize(residual.float(), dim=1) @ head.T).amax(dim=1).double())
    return pl.DataFrame({"lens_confidence": torch.cat(confidence).cpu().numpy(), "head_cosine": torch.cat(cosine).cpu().numpy()})
