"""LoRA, LoReFT and changed weights to look at: small ones that change much, peft's twin of one, and what must not change beside them."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from engine_models import shipped_model, tiny_model
from torch import Tensor
from transformers.cache_utils import DynamicCache

from saesteer.engine.adapters import LowRankSubspace, LowRankWeights, WeightChange, adapter_layers
from saesteer.engine.models import LanguageModel
from saesteer.methods.fit import lora

PROJECTIONS = {
    "gpt_neox": "gpt_neox.layers.{}.attention.dense",
    "gpt2": "transformer.h.{}.attn.c_proj",
    "bloom": "transformer.h.{}.self_attention.dense",
    "lfm2": "model.layers.{}.self_attn.out_proj",
    "opt": "model.decoder.layers.{}.self_attn.out_proj",
}
"""Where the output projection of attention is in families that are not of Llama's kind."""
HYBRID = {"qwen3_5_text": ("linear_attn.out_proj", (2,)), "bamba": ("mamba.out_proj", (1, 3)), "lfm2": ("conv.out_proj", (1, 3))}
"""Families with something in the place of attention: what that ends in, and the layers that have attention all the same."""


def projection_of(family: str, layer: int) -> str:
    """The name of the linear map that a layer's attention, or what is in its place, ends in."""
    other, attending = HYBRID.get(family, ("", range(99)))
    name = PROJECTIONS.get(family, "model.layers.{}.self_attn.o_proj") if layer in attending else f"model.layers.{{}}.{other}"
    return name.format(layer)


def model_of(family: str) -> LanguageModel:
    return shipped_model() if family == "shipped" else tiny_model(family)


def rows_of(lm: LanguageModel, n_rows: int = 5, n_tokens: int = 13, seed: int = 0) -> Tensor:
    return torch.randint(3, lm.n_vocab, (n_rows, n_tokens), generator=torch.Generator().manual_seed(seed))


def a_lora(lm: LanguageModel, seed: int = 0) -> LowRankWeights:
    """A LoRA that changes much: B is not 0 as before training."""
    start = lora.new_adapter(lm, adapter_layers(lm.n_layers), torch.Generator().manual_seed(seed))
    return replace(start, B=0.3 * torch.randn(start.B.shape, generator=torch.Generator().manual_seed(seed + 1)))


def a_loreft(lm: LanguageModel, seed: int = 0, n_first: int = 5, n_last: int = 5) -> LowRankSubspace:
    layers, generator = adapter_layers(lm.n_layers), torch.Generator().manual_seed(seed)
    R = torch.stack([torch.linalg.qr(torch.randn(lm.d_model, 4, generator=generator))[0].T for _ in layers])
    W = torch.randn(len(layers), 4, lm.d_model, generator=generator) * 0.3
    return LowRankSubspace(layers, R, W, torch.randn(len(layers), 4, generator=generator), n_first, n_last)


def a_change(lm: LanguageModel) -> WeightChange:
    generator = torch.Generator().manual_seed(0)
    return WeightChange(
        {name: 0.05 * torch.randn(weight.shape, generator=generator) for name, weight in lm.model.named_parameters()},
    )


def peft_model(lm: LanguageModel, adapter: LowRankWeights, family: str, factor: float = 1.0) -> Any:
    """peft's LoRA with the same A and B, on a copy of the model, its scaling (that of rsLoRA) times the factor."""
    import peft

    names = [projection_of(family, layer) for layer in adapter.layers]
    config = peft.LoraConfig(
        r=4, lora_alpha=32, use_rslora=True, lora_dropout=0.0, target_modules=names, fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(copy.deepcopy(lm.model), config)
    for name, A, B in zip(names, adapter.A, adapter.B, strict=True):
        module = model.base_model.model.get_submodule(name)
        module.lora_A["default"].weight.data = A[:, : module.in_features].clone()
        module.lora_B["default"].weight.data = B.clone()
        module.scaling["default"] *= factor
    return model


def hooks_of(lm: LanguageModel) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in lm.model.modules())


@contextmanager
def left_as_it_was(lm: LanguageModel) -> Iterator[None]:
    """Afterwards the model has the same parameters to the bit, asks for no gradient, holds none, has no hook more (transformers leaves some
    in a model that was once asked for `output_hidden_states`), and does not train."""
    n_hooks = hooks_of(lm)
    before = {name: (weight, weight.data_ptr(), weight.clone()) for name, weight in lm.model.named_parameters()}
    yield
    for name, weight in lm.model.named_parameters():
        held, place, values = before[name]
        assert weight is held, name
        assert weight.data_ptr() == place, name
        assert torch.equal(weight, values), name
        assert not weight.requires_grad, name
        assert weight.grad is None, name
    assert hooks_of(lm) == n_hooks
    assert not any(part.training for part in lm.model.modules())


@torch.no_grad()
def stepped(lm: LanguageModel, ids: Tensor, installed: Callable[[int], Any], prompt_length: int) -> Tensor:
    """Logits at all positions: the prompt in one forward, then token by token with a cache."""
    cache, logits = DynamicCache(config=lm.model.config), []
    bounds = [0, *range(prompt_length, ids.shape[1] + 1)]
    for start, end in pairwise(bounds):
        with installed(start):
            logits.append(lm.model(ids[:, start:end], past_key_values=cache, use_cache=True).logits)
    return torch.cat(logits, dim=1)
