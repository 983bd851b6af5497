"""Hook points inside of a decoder block by the families' own names of their modules: plain hooks, one text at a time.

A direction is added here to the tensor that the SAE rebuilds (what attention adds, its heads, what the MLP adds), in the package to the
residual behind it, where that is the same.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from oracles.plain_hooks import family_parts
from torch import Tensor

GEMMA = {
    "attention": "post_attention_layernorm",
    "heads": "self_attn.o_proj",
    "mlp_out": "post_feedforward_layernorm",
    "mlp": "mlp",
    "norm": "pre_feedforward_layernorm",
}
LLAMA = {"attention": "self_attn", "heads": "self_attn.o_proj", "mlp_out": "mlp", "mlp": "mlp", "norm": "post_attention_layernorm"}
MODULES = {
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "llama": LLAMA,
    "qwen3": LLAMA,
    "gpt2": {"attention": "attn", "heads": "attn.c_proj", "mlp_out": "mlp", "mlp": "mlp", "norm": "ln_2"},
    "gpt_neox": {
        "attention": "attention",
        "heads": "attention.dense",
        "mlp_out": "mlp",
        "mlp": "mlp",
        "norm": "post_attention_layernorm",
    },
}
OUTPUT_MODULES = {
    "bloom": ("self_attention", "mlp"),
    "gpt2": ("attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),
    "mpt": ("attn", "ffn"),
}
"""What a family calls a block's attention and its MLP, where it is not self_attn and mlp."""


def part(model: Any, layer: int, name: str) -> Any:
    block, family = family_parts(model)[0][layer], model.config.model_type
    if name in ("attn_module", "mlp_module"):
        return block.get_submodule(OUTPUT_MODULES.get(family, ("self_attn", "mlp"))[name == "mlp_module"])
    return block.get_submodule(MODULES[family][name])


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def without_gain(model: Any, norm: Any, x: Tensor) -> Tensor:
    """What a norm's gain and bias are applied to."""
    rows = x.double()
    if model.config.model_type in ("gpt2", "gpt_neox"):
        return ((rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()).float()
    return (rows / (rows.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt()).float()


@contextmanager
def hooked(model: Any, layer: int, hook_point: str, delta: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Adds `delta` of what an SAE at the hook point reads [row seq d] to the tensor that its decoder writes to."""
    block, read = family_parts(model)[0][layer], []

    def into(name: str, take: Callable[[Tensor], None]) -> Any:
        return part(model, layer, name).register_forward_pre_hook(lambda _module, args: take(args[0]))

    def added(_module: Any, _args: Any, output: Any) -> Any:
        new = first(output) + delta(read.pop() if read else first(output))
        return (new, *output[1:]) if isinstance(output, tuple) else new

    with ExitStack() as handles:
        if hook_point in ("embedding", "resid_pre"):
            hooks = [block.register_forward_pre_hook(lambda _module, args: (args[0] + delta(args[0]), *args[1:]))]
        elif hook_point == "resid_post":
            hooks = [block.register_forward_hook(added)]
        elif hook_point == "hook_z":
            heads = part(model, layer, "heads")
            hooks = [heads.register_forward_pre_hook(lambda _module, args: (args[0] + delta(args[0]),))]
        elif hook_point == "resid_mid":
            hooks = [block.register_forward_pre_hook(lambda _module, args: read.append(args[0]))]
            together = part(model, layer, "attention").register_forward_hook(lambda _m, _a, output: read.append(read.pop() + first(output)))
            hooks += [together, part(model, layer, "attention").register_forward_hook(added)]
        elif hook_point in ("attn_out", "attn_module", "mlp_module"):
            hooks = [part(model, layer, "attention" if hook_point == "attn_out" else hook_point).register_forward_hook(added)]
        else:
            norm = part(model, layer, "norm")
            hooks = [part(model, layer, "mlp_out").register_forward_hook(added)]
            if hook_point == "transcoder":
                hooks.append(into("mlp", read.append))
            if hook_point == "transcoder_normalized":
                hooks.append(into("norm", lambda x: read.append(without_gain(model, norm, x))))
        for handle in hooks:
            handles.callback(handle.remove)
        yield


@torch.no_grad()
def read(model: Any, token_ids: Sequence[int], layer: int, hook_point: str) -> Tensor:
    """What an SAE at the hook point reads at every position [seq d], of one text alone."""
    captured: list[Tensor] = []
    with hooked(model, layer, hook_point, lambda x: captured.append(x[0].clone()) or torch.zeros(())):
        model(torch.tensor([list(token_ids)]))
    return captured[0]


def codes(sae: Any, rows: Tensor) -> Tensor:
    """JumpReLU codes [row feature], in float64."""
    if sae.meta.centred:
        rows = rows - rows.mean(-1, keepdim=True)
    pre = rows.double() @ sae.W_enc.double() + sae.b_enc.double()
    return torch.where(pre > sae.threshold.double(), pre, 0.0)


def amplified(sae: Any, feature: int, factor: float) -> Callable[[Tensor], Tensor]:
    """P1's addition, at the last position."""

    def delta(x: Tensor) -> Tensor:
        added = torch.zeros(*x.shape[:-1], sae.W_dec.shape[1])
        added[:, -1] = (factor * codes(sae, x[:, -1]).amax(-1, keepdim=True) * sae.W_dec[feature].double()).float()
        return added

    return delta
