"""Weights of 8 and 4 bits, by torchao where it is installed.

The matrices of the decoder blocks' linear maps are quantised when they are read, one at a time: int8 with a scale for each row, nf4 (4-bit
NormalFloat, arXiv 2305.14314) with one for each 64 numbers. All else is bfloat16: embedding and head, which the logit lens and every score
read, norms, biases, and what is no linear map of its own (experts, GPT-2's Conv1D). Each product is made in bfloat16 with the matrix
brought back to it, so activations are as exact as in bfloat16, rows do not depend on their company, and gradients reach what comes before.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, TorchAoConfig

from saesteer.sources.model_size import check_library

ALGORITHM_VERSION = 1
"""In the fingerprints of steps whose model is quantised (saesteer.workflow.plan)."""

LEAST_SHARE = 0.5
"""Smallest share of a model's weights, embedding and head apart, that linear maps hold: below it quantising saves little and is refused."""

_BLOCK = 64
_BLOCKS = 256
"""nf4: numbers to a scale, and scales to a scale of theirs."""


def quantisation(config: PretrainedConfig, dtype: str) -> TorchAoConfig:
    """What from_pretrained is to do with linear maps."""
    check_library(dtype)
    numbers_of(config)
    return TorchAoConfig(_weights_of(dtype))


def numbers_of(config: PretrainedConfig | Mapping[str, Any]) -> tuple[int, int]:
    """How many numbers of a model's weights are quantised, and how many are not, by its configuration; refused where these are too many."""
    if not isinstance(config, PretrainedConfig):
        config = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config.get_text_config(decoder=True), trust_remote_code=False)
    head = model.get_output_embeddings()
    linear = sum(module.weight.numel() for module in model.modules() if type(module) is nn.Linear and module is not head)
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding) or module is head]
    embedded = {id(weight): weight.numel() for weight in tables}  # tied ones are one
    not_linear = sum(weight.numel() for weight in model.parameters()) - linear
    share = linear / max(1, linear + not_linear - sum(embedded.values()))
    if share < LEAST_SHARE:
        raise ValueError(
            f"{type(model).__name__}: only {share:.0%} of the weights of its blocks are those of linear maps, which int8 and nf4"
            " quantise (experts and the maps of GPT-2 and Falcon are of another kind): set the model's dtype to bfloat16 (on a GPU)"
            " or float32"
        )
    return linear, not_linear


def is_quantised(weight: Tensor) -> bool:
    """Whether a parameter is a quantised matrix."""
    return hasattr(weight, "__tensor_flatten__")


def tensors_in(weight: Tensor) -> list[Tensor]:
    """A parameter as plain tensors: itself or, where it is quantised, its numbers and their scales."""
    return [getattr(weight, name) for name in weight.__tensor_flatten__()[0]] if is_quantised(weight) else [weight]


@cache
def _weights_of(dtype: str) -> Any:
    """A configuration of torchao's kind, with what it does to a linear map; one that is no whole number of blocks stays as it is."""
    from torchao.core.config import AOBaseConfig
    from torchao.quantization import Int8Tensor, NF4Tensor, PerRow
    from torchao.quantization.transform_module import register_quantize_module_handler

    def quantised(module: nn.Module, _config: AOBaseConfig) -> nn.Module:
        weight = module.weight.detach()
        if type(module) is nn.Linear and dtype == "int8":
            module.weight = nn.Parameter(Int8Tensor.from_hp(weight, PerRow()), requires_grad=False)
        elif type(module) is nn.Linear and weight.numel() % _BLOCK == 0:
            scales = math.gcd(weight.numel() // _BLOCK, _BLOCKS)
            module.weight = nn.Parameter(NF4Tensor.from_tensor(weight, _BLOCK, scales), requires_grad=False)
        return module

    # transformers reads the number of bits from the name.
    config = type({"int8": "Int8WeightOnly", "nf4": "NormalFloat4WeightOnly"}[dtype], (AOBaseConfig,), {})
    register_quantize_module_handler(config)(quantised)
    return config()
