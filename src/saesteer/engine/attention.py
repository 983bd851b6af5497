"""How a model attends.

On a GPU transformers' plain attention copies the keys and values of every step once a query head. On a CPU it stays: there the copies cost
little, and its numbers are what results are compared with. Rows that begin at different places in the caches attend apart there, so that
prompts of several lengths share all other arithmetic and each row's numbers are those that it has by itself.
"""

import sys
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

ALGORITHM_VERSION = 2

GROUPED = "grouped_query_heads"
BY_LENGTH = "plain_by_length"

MIXING = (
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "opt",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
"""Families in which rows that begin at different places were tried in float32 and have, to the bit, the numbers that they have by
themselves. Others may have masks or values of another shape, or experts."""


def attention_on(device: str, model: Any) -> str:
    """transformers' name of the attention to use on a device."""
    if device != "cpu":
        return attention_on_gpu(model)
    is_tried = model.dtype == torch.float32 and model.config.get_text_config(decoder=True).model_type in MIXING
    return BY_LENGTH if is_tried else "eager"


def mixes_lengths(model: Any) -> bool:
    """Whether rows that begin at different places in the caches have the numbers that they have by themselves."""
    return bool(model.config.get_text_config(decoder=True)._attn_implementation == BY_LENGTH)


def attention_on_gpu(model: Any) -> str:
    """transformers' name of the attention to use on a GPU: `grouped_attention`, where the model's arithmetic is no other."""
    capped = getattr(model.config.get_text_config(decoder=True), "attn_logit_softcapping", None) is not None
    return GROUPED if capped or model._supports_sdpa else "eager"


def grouped_attention(
    _module: Any,
    query: Float[Tensor, "row head seq d_head"],
    key: Float[Tensor, "row kv_head seen d_head"],
    value: Float[Tensor, "row kv_head seen d_head"],
    attention_mask: Float[Tensor, "#row #head seq seen"] | None,
    scaling: float,
    softcap: float | None = None,
    **_other: Any,
) -> tuple[Float[Tensor, "row seq head d_head"], None]:
    """Plain attention with the query heads that share keys and values in one product; by PyTorch's kernels unless logits have a cap,
    which those do not know."""
    n_seq, n_kv = query.shape[2], key.shape[1]
    together = query.unflatten(1, (n_kv, -1)).flatten(2, 3)  # [row kv_head group*seq d_head]
    n_group = together.shape[2] // n_seq
    mask = attention_mask
    if mask is not None:  # [row 1 group*seq seen], or of a family with a mask for each head (Doge) [row kv_head group*seq seen]
        mask = mask.repeat(1, 1, n_group, 1) if mask.shape[1] == 1 else mask.unflatten(1, (n_kv, -1)).flatten(2, 3)
    if softcap is None:
        output = nn.functional.scaled_dot_product_attention(together, key, value, attn_mask=mask, scale=scaling)
    else:
        weights = torch.tanh((together @ key.mT) * scaling / softcap) * softcap
        weights = weights if mask is None else weights + mask
        output = torch.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype) @ value
    return output.unflatten(2, (n_group, n_seq)).flatten(1, 2).transpose(1, 2).contiguous(), None  # [row seq head d_head]


def mask_by_length(attention_mask: Bool[Tensor, "row seen"] | None = None, kv_offset: int = 0, **other: Any) -> Tensor:
    """transformers' mask for plain attention. Where some places are masked for a row it also says, as (place, rows), where neighbouring
    rows begin among the keys, for every layer. kv_offset: places before the first key."""
    mask: Tensor = eager_mask(attention_mask=attention_mask, kv_offset=kv_offset, **other)
    if attention_mask is not None:
        begin = (attention_mask.int().argmax(dim=1) - kv_offset).clamp(min=0)
        places, n_rows = begin.unique_consecutive(return_counts=True)
        ends = n_rows.cumsum(0).tolist()
        mask.beginnings = [(place, slice(end - n, end)) for place, end, n in zip(places.tolist(), ends, n_rows.tolist(), strict=True)]
    return mask


def plain_attention_by_length(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **other: Any
) -> tuple[Tensor, None]:
    """The family's plain attention, of neighbouring rows that begin at one place together, without the places before. Shapes as of
    `grouped_attention`."""
    plain = sys.modules[type(module).__module__].eager_attention_forward
    outputs = [
        plain(module, query[rows], key[rows, :, place:], value[rows, :, place:], attention_mask[rows, :, :, place:], **other)[0]
        for place, rows in getattr(attention_mask, "beginnings", [(0, slice(None))])
    ]
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0], None


for _name, _attention, _mask in ((GROUPED, grouped_attention, eager_mask), (BY_LENGTH, plain_attention_by_length, mask_by_length)):
    AttentionInterface.register(_name, _attention)
    AttentionMaskInterface.register(_name, _mask)
