"""Steering a feature: the edit as a pure function of rows, and a context manager that applies an edit to a running model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.models import block_residual, with_block_residual
from saesteer.saes import Sae, largest_code


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
def last_position_edited(block: nn.Module, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the context, `edit` maps the block's residual output [row d_model] at the last position of every forward; earlier positions
    stay."""

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        residual = block_residual(output)  # [row seq d_model]
        edited = edit(residual[:, -1])[:, None]
        return with_block_residual(output, torch.cat([residual[:, :-1], edited], dim=1))

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
