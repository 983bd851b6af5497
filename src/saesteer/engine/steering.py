"""Steering a feature: the edit as a pure function of rows, and a context manager that applies an edit to a running model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.engine.models import LanguageModel, residual_changed
from saesteer.engine.saes import Sae, largest_code


def amplify(
    residual: Float[Tensor, "row d_model"],
    direction: Float[Tensor, "row d_model"],
    factor: Float[Tensor, " row"],
    a_max: Float[Tensor, " row"],
) -> Float[Tensor, "row d_model"]:
    """`residual + factor * a_max * direction`, row by row: "amplify" of P1 (arXiv 2505.20063), section 3.

    The SAE's reconstruction error stays in the residual: adding here equals decoding the edited code and adding the error. Factor 0 changes
    nothing.
    """
    # For an SAE of a model with centred writing weights this is the same edit. That model's residual is this one less its mean; both get
    # the same addition, so they go on differing by a multiple of (1, ..., 1). Every LayerNorm removes such a multiple, whatever it is, so
    # each block adds what it adds there but for another such multiple, and the logits are equal (test_transformer_lens compares them).
    return residual + ((factor * a_max)[:, None] * direction).to(residual.dtype)


def amplified(
    sae: Sae, direction: Float[Tensor, "row d_model"], factor: Float[Tensor, " row"]
) -> Callable[[Float[Tensor, "row d_model"]], Float[Tensor, "row d_model"]]:
    """The edit `amplify` with a_max taken anew from each residual row that it is given (the authors' program takes the whole batch's
    maximum)."""

    def edit(residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        return amplify(residual, direction, factor, largest_code(sae, residual))

    return edit


@contextmanager
def last_position_edited(lm: LanguageModel, depth: int, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, `edit` maps the residual [row d_model] at `depth` (`models.depth_of`) and the last position of every
    forward; earlier positions stay."""

    def change(residual: Tensor) -> Tensor:  # [row seq d_model]
        return torch.cat([residual[:, :-1], edit(residual[:, -1])[:, None]], dim=1)

    with residual_changed(lm, depth, change):
        yield
