"""How a model attends on a GPU, where transformers' plain attention copies the keys and values of every step once a query head.

On a CPU the plain one stays: there the copies cost little, and its numbers are what results are compared with.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

ALGORITHM_VERSION = 1

GROUPED = "grouped_query_heads"


def attention_on_gpu(model: Any) -> str:
    """transformers' name of the attention to use on a GPU: PyTorch's kernels, or `grouped_attention` where logits have a cap, which those
    do not know."""
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return GROUPED
    return "sdpa" if model._supports_sdpa else "eager"


def grouped_attention(
    _module: Any,
    query: Float[Tensor, "row head seq d_head"],
    key: Float[Tensor, "row kv_head seen d_head"],
    value: Float[Tensor, "row kv_head seen d_head"],
    attention_mask: Float[Tensor, "#row 1 seq seen"] | None,
    scaling: float,
    softcap: float | None = None,
    **_other: Any,
) -> tuple[Float[Tensor, "row seq head d_head"], None]:
    """Plain attention with the query heads that share keys and values in one product."""
    n_seq, n_kv = query.shape[2], key.shape[1]
    together = query.unflatten(1, (n_kv, -1)).flatten(2, 3)  # [row kv_head group*seq d_head]
    weights = (together @ key.mT) * scaling
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
    if attention_mask is not None:
        weights = (weights.unflatten(2, (-1, n_seq)) + attention_mask[:, :, None]).flatten(2, 3)
    weights = torch.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    output = (weights @ value).unflatten(2, (-1, n_seq)).flatten(1, 2)  # [row head seq d_head]
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
