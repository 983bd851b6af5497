"""Products of matrices in narrow number formats (bfloat16, float16) with float32 results.

A model's layers may run in bfloat16; what is counted, compared or put through a softmax may not: a bfloat16 logit near 20 is a multiple of
1/8. So heads and SAE encoders multiply narrow numbers, add up in float32 and keep that.
"""

from __future__ import annotations

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
        return torch.mm(rows, matrix, out_dtype=torch.float32)
    return rows.float() @ matrix.float()
