"""Products of matrices in narrow number formats (bfloat16, float16) with float32 results.

A model's layers may run in bfloat16; what is counted, compared or put through a softmax may not: a bfloat16 logit near 20 is a multiple of
1/8. So heads and SAE encoders multiply narrow numbers, add up in float32 and keep that.
"""

from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

ALGORITHM_VERSION = 1


def is_narrow(dtype: torch.dtype) -> bool:
    """Whether a number format has fewer bits than float32."""
    return dtype.itemsize < torch.float32.itemsize


def product(rows: Float[Tensor, "row inner"], matrix: Float[Tensor, "inner column"]) -> Float32[Tensor, "row column"]:
    """`rows @ matrix` of narrow numbers, added up and given in float32."""
    if rows.device.type == "cuda":  # tensor cores add up in float32 anyway; elsewhere PyTorch has no such product
        result: Tensor = _WideProduct.apply(rows, matrix)
        return result
    return rows.float() @ matrix.float()


class _WideProduct(torch.autograd.Function):
    """`torch.mm` of narrow numbers with a float32 result, and the derivative that PyTorch does not have for it: narrow products too, of the
    gradient scaled to its largest entry, so that none is too small for the format."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(rows, matrix)
        return torch.mm(rows, matrix, out_dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, matrix = ctx.saved_tensors
        scale = gradient.abs().amax().clamp(min=torch.finfo(gradient.dtype).tiny)
        narrow = (gradient / scale).to(rows.dtype)
        of_rows, of_matrix = ctx.needs_input_grad
        return (
            (torch.mm(narrow, matrix.T, out_dtype=torch.float32) * scale).to(rows.dtype) if of_rows else None,
            (torch.mm(rows.T, narrow, out_dtype=torch.float32) * scale).to(matrix.dtype) if of_matrix else None,
        )
