"""The parts of a Hugging Face causal language model, found from its structure, and a small forward that shows whether they are used as the
engine supposes: blocks hand one residual stream to each other and keep a prompt's states in a cache, and logits are the head's, scaled and
capped. A model that is built in another way is refused by name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer
from transformers.pytorch_utils import Conv1D

from saesteer.engine.finite import check_logits, rows_named
from saesteer.engine.linear_attention import RowStates

ALGORITHM_VERSION = 1


@dataclass(frozen=True)
class Structure:
    """Where a model keeps what the engine works on."""

    blocks: nn.ModuleList
    head: nn.Module
    linear: tuple[bool, ...]  # of each block: whether it attends linearly, so that a prompt leaves it states of one size
    logit_scale: float  # what the head's outputs are multiplied by
    final_logit_softcapping: float | None
    n_extras: int | None = None  # a block puts out a tuple of its residual and this many other values; None: its residual alone
    projections: tuple[nn.Module | None, ...] = ()  # of each block: the linear map that attention, or what is in its place, ends in


def structure_of(model: Any) -> Structure:
    """The parts of a model in evaluation mode, tried on two texts of two tokens that differ in the second."""
    _check_kind(model)
    structure = untried_structure(model)
    blocks, decoder, head = structure.blocks, model.get_decoder(), structure.head
    cache = Cache(layers=empty_layers(structure))
    inner = [part for block in blocks for part in (*block.children(), *_maps(block))]
    with torch.no_grad(), _watched(inner) as inner_calls, _watched([*blocks, decoder, head]) as calls:
        ids = torch.tensor([[1, 1], [1, 2]], device=model.get_input_embeddings().weight.device)
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    if [call.module for call in calls] != [*blocks, decoder, head]:
        raise ValueError(f"{_name(model)}: its forward does not run each decoder block once, in order, and then its head")
    if not all(layer.keys is not None and len(layer.keys) == len(ids) for layer in cache.layers):
        raise ValueError(f"{_name(model)}: its blocks keep nothing of a prompt in the cache that the engine gives them")
    *of_blocks, of_decoder, of_head = calls
    residuals, width = [block_residual(call.output) for call in of_blocks], head.weight.shape[1]
    if not all(isinstance(residual, Tensor) and residual.shape == (*ids.shape, width) for residual in residuals):
        raise ValueError(f"{_name(model)}: its decoder blocks do not put out a residual stream of width {width}")
    if any(call.argument is not residual for call, residual in zip(of_blocks[1:], residuals[:-1], strict=True)):
        raise ValueError(f"{_name(model)}: a decoder block is not given the residual that the block before it puts out")
    with rows_named(_name(model)):
        check_logits(logits.flatten(0, 1), head.weight)
    if not all(_alike(*residual[:, 0].float()) for residual in residuals):
        raise ValueError(f"{_name(model)}: a token's residual depends on the tokens after it: load a causal language model")
    _check_head(model, of_decoder.output.last_hidden_state, of_head, logits, structure)
    output = of_blocks[0].output
    projections = tuple(_projection(call, inner_calls) for call in of_blocks)
    return replace(structure, n_extras=len(output) - 1 if isinstance(output, tuple) else None, projections=projections)


def _check_kind(model: Any) -> None:
    """Refuse what is no causal language model of transformers, whole and by itself."""
    if hasattr(model, "get_base_model"):  # PEFT's
        raise ValueError(f"{_name(model)}: a model with an adapter: give load_model its merge_and_unload()")
    if adapted := next((name for name, part in model.named_modules() if hasattr(part, "get_base_layer")), None):
        raise ValueError(f"{_name(model)}: {adapted} has an adapter: give load_model the adapted model's merge_and_unload()")
    reason = None
    if not isinstance(model, PreTrainedModel):
        reason = "is no model of transformers"
    elif model.config.is_encoder_decoder:
        reason = "is an encoder with a decoder"
    elif model.get_output_embeddings() is None:
        reason = "has no language-model head"
    if reason:
        raise ValueError(f"{_name(model)} {reason}: load a causal language model with AutoModelForCausalLM")
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            f"{_name(model)}: some of its weights are offloaded: load it whole, without offloading, in a smaller dtype or on several GPUs"
        )


def untried_structure(model: Any) -> Structure:
    """The parts of a model, by their names and places alone; its weights may be without numbers."""
    config = model.config.get_text_config(decoder=True)
    parts = model.get_decoder().named_modules()
    # The decoder blocks are the one list of as many modules as there are layers that lies in no other such list.
    lists = {name: part for name, part in parts if isinstance(part, nn.ModuleList) and len(part) == config.num_hidden_layers}
    outer = [part for name, part in lists.items() if not any(name.startswith(f"{parent}.") for parent in lists)]
    if len(outer) != 1:
        raise ValueError(f"{_name(model)}: expected one list of {config.num_hidden_layers} decoder blocks, found {len(outer)}")
    # Cohere's models multiply their logits by a number, Granite's divide them by one.
    logit_scale = float(getattr(config, "logit_scale", None) or 1) / float(getattr(config, "logits_scaling", None) or 1)
    cap = getattr(config, "final_logit_softcapping", None)
    return Structure(outer[0], model.get_output_embeddings(), _linear(model), logit_scale, cap)


def block_residual(output: Any) -> Any:
    """The residual in a module's output, which is a tensor or a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


def empty_layers(structure: Structure) -> list[RowStates | DynamicLayer]:
    """Cache layers of the model's kinds. Those of attention are plain also where it has a sliding window: the mask cuts the window, and all
    positions stay aligned."""
    return [RowStates() if linear else DynamicLayer() for linear in structure.linear]


def _name(model: Any) -> str:
    return type(model).__name__


def _linear(model: Any) -> tuple[bool, ...]:
    """Which blocks attend linearly, by the cache that transformers would give the model."""
    kinds = {DynamicLayer: False, DynamicSlidingWindowLayer: False, LinearAttentionLayer: True}
    layers = DynamicCache(config=model.config).layers
    unknown = [type(layer).__name__ for layer in layers if type(layer) not in kinds or getattr(layer, "number_of_states", 1) > 1]
    if unknown or all(kinds[type(layer)] for layer in layers):
        held = unknown[0] if unknown else "the states of linear layers only"
        raise ValueError(f"{_name(model)}: keeps {held} of a prompt, which the engine cannot share between rows; attention is needed")
    return tuple(kinds[type(layer)] for layer in layers)


@dataclass(frozen=True)
class _Call:
    module: nn.Module
    argument: Any  # the first
    output: Any


@contextmanager
def _watched(modules: Sequence[nn.Module]) -> Iterator[list[_Call]]:
    """Within the context, every call of the modules is listed when it returns."""
    calls: list[_Call] = []
    handles = [
        module.register_forward_hook(lambda module, args, output: calls.append(_Call(module, args[0] if args else None, output)))
        for module in modules
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _maps(module: nn.Module) -> list[nn.Module]:
    """The linear maps in a module."""
    return [part for part in module.modules() if isinstance(part, nn.Linear | Conv1D)]


def _projection(block: _Call, calls: Sequence[_Call]) -> nn.Module | None:
    """What the first part of a block that runs a linear map, its attention, ends in: a linear map whose output, or this with the block's
    input added (Bloom's), is the part's."""
    maps = {id(linear_map): part for part in block.module.children() for linear_map in _maps(part)}
    ran = [call for call in calls if id(call.module) in maps]
    part = maps[id(ran[0].module)] if ran else None
    last = next((call for call in reversed(ran) if maps[id(call.module)] is part), None)
    of_part = next((block_residual(call.output) for call in calls if call.module is part), None)
    if last is None or not isinstance(of_part, Tensor) or not of_part.shape == last.output.shape == block.argument.shape:
        return None
    with_input = last.output + block.argument.to(last.output.device)
    return last.module if torch.equal(of_part, last.output) or torch.equal(of_part, with_input) else None


def _alike(one: Tensor, other: Tensor, share: float = 0.01) -> bool:
    """Whether two tensors are equal but for rounding, at most a share of the largest value."""
    return torch.allclose(one, other, rtol=0, atol=share * float(other.abs().max()))


def _check_head(model: Any, hidden: Tensor, of_head: _Call, logits: Tensor, structure: Structure) -> None:
    """Refuse a head that is not given what the decoder puts out, that is more than a linear map (a hook on it changes what it puts out), or
    whose outputs, scaled and capped, are not the model's logits."""
    if of_head.argument.shape != hidden.shape or not torch.equal(of_head.argument, hidden.to(of_head.argument.device)):
        raise ValueError(f"{_name(model)}: its head is not given what its decoder puts out, but something made of that")
    product = nn.functional.linear(of_head.argument, of_head.module.weight, getattr(of_head.module, "bias", None))
    with rows_named(_name(model)):
        check_logits(product.flatten(0, 1), of_head.module.weight)
    if not _alike(product.float(), of_head.output.float()):
        raise ValueError(f"{_name(model)}: its head puts out something else than the product with its weights: take hooks off it")
    scale, cap = structure.logit_scale, structure.final_logit_softcapping
    expected = of_head.output.float() * scale
    expected = expected if cap is None else cap * torch.tanh(expected / cap)
    if not torch.allclose(logits.float().to(expected.device), expected, rtol=0.05, atol=0.05 * float(expected.abs().max())):
        raise ValueError(f"{_name(model)}: its logits are not its head's outputs, scaled by {scale} and capped at {cap}")
