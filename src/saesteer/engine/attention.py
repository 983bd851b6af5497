"""How a model attends on a GPU, where transformers' plain attention copies the keys and values of every step once a query head.

On a CPU the plain one stays: there the copies cost little, and its numbers are what results are compared with.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

ALGORITHM_VERSION = 2

GROUPED = "grouped_query_heads"


def attention_on_gpu(model: Any) -> str:
    """transformers' name of the attention to use on a GPU: `grouped_attention`, where the model's arithmetic is no other."""
    capped = getattr(model.config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None
    return GROUPED if capped or model._supports_sdpa else "eager"


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
    """Plain attention with the query heads that share keys and values in one product; by PyTorch's kernels unless logits have a cap,
    which those do not know."""
    n_seq, n_kv = query.shape[2], key.shape[1]
    together = query.unflatten(1, (n_kv, -1)).flatten(2, 3)  # [row kv_head group*seq d_head]
    n_group = together.shape[2] // n_seq
    mask = None if attention_mask is None else attention_mask.repeat(1, 1, n_group, 1)  # [row 1 group*seq seen]
    if softcap is None:
        output = nn.functional.scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=scaling)
    else:
        weights = torch.tanh((together @ key.mT) * scaling / softcap) * softcap
        weights = weights if mask is None else weights + mask
        output = torch.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    return output.unflatten(2, (n_group, n_seq)).flatten(1, 2).transpose(1, 2).contiguous(), None  # [row seq head d_head]


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
