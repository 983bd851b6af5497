"""What a decoder block is made of, found by what it computes, so that no family needs a line of its own.

A layer is run once on a few tokens. What attention and the MLP add to the residual are the two outputs of modules that, added to the
block's input, give its output to the bit; where no two do (a family that scales them, say), there is nothing to be known.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saesteer.engine.models import MIN_ROWS, LanguageModel, residuals_at
from saesteer.engine.structure import block_residual

ALGORITHM_VERSION = 1

MLP_NAMES = ("mlp", "feed_forward", "ffn", "moe", "block_sparse_moe")
"""What families call a block's MLP."""

PROBE = (5, 7, 6, 7)
"""Tokens that a layer is run on: any will do, one of them twice."""


@dataclass(frozen=True)
class Call:
    """One call of a module in a block, as the probe saw it."""

    name: str
    module: nn.Module
    argument: Tensor | None  # its first
    output: Tensor


@dataclass(frozen=True)
class Added:
    """The calls whose outputs a block adds to the residual."""

    attention: Call
    mlp: Call
    has_middle: bool  # whether the MLP reads the residual with attention's output in it


@dataclass(frozen=True)
class Parts:
    """A block's calls on the probe, in order, with the residual before and behind it."""

    layer: int
    before: Float[Tensor, "row seq d_model"]
    behind: Float[Tensor, "row seq d_model"]
    calls: tuple[Call, ...]

    def mlp(self, lm: LanguageModel) -> Call:
        """The block's MLP."""
        calls = [call for call in self.calls if call.name in MLP_NAMES]
        if len(calls) != 1 or calls[0].argument is None or calls[0].argument.shape != self.before.shape:
            raise ValueError(f"{lm.name}: no single MLP can be made out in layer {self.layer}, so a transcoder's input is not known")
        return calls[0]

    def projection(self, lm: LanguageModel) -> Call:
        """Attention's output map: the last linear map that runs in the block's attention module."""
        maps = [call for call in self.calls if isinstance(call.module, nn.Linear | Conv1D) and call.output.shape == self.before.shape]
        in_attention = [call for call in maps if any(word in call.name.partition(".")[0] for word in ("attn", "attention"))]
        if not in_attention or in_attention[-1].argument is None:
            raise ValueError(
                f"{lm.name}: no attention module with an output map can be made out in layer {self.layer}; SAEs at hook_z need one"
            )
        return in_attention[-1]

    def attention(self, lm: LanguageModel) -> Call:
        """The block's attention module."""
        name = self.projection(lm).name.partition(".")[0]
        return next(call for call in self.calls if call.name == name)

    def added(self, lm: LanguageModel) -> Added:
        """What the block adds: the first two outputs, attention's before the MLP's, that give its output to the bit."""
        outputs = [call for call in self.calls if call.output.shape == self.before.shape]
        for attention, mlp in combinations(outputs, 2):
            middle = self.before + attention.output
            sums = (middle + mlp.output, self.before + mlp.output + attention.output, self.before + (attention.output + mlp.output))
            if any(torch.equal(total, self.behind) for total in sums):
                arguments = (call.argument for call in self.calls if call.argument is not None and call.argument.shape == middle.shape)
                return Added(attention, mlp, any(torch.equal(argument, middle) for argument in arguments))
        raise ValueError(
            f"{lm.name}: what attention and the MLP add to the residual cannot be made out in layer"
            f" {self.layer}; only SAEs at resid_pre and resid_post can be used with this family"
        )


def probe_ids(lm: LanguageModel) -> Int[Tensor, "row seq"]:
    """The tokens of `PROBE`, `MIN_ROWS` times."""
    return torch.tensor([PROBE] * MIN_ROWS, device=lm.device) % lm.n_vocab


@torch.no_grad()
def parts_of(lm: LanguageModel, layer: int) -> Parts:
    """The parts of a layer's block, from one forward that stops behind it."""
    calls: list[Call] = []

    def noted(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            argument = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
            output = block_residual(output)
            if isinstance(output, Tensor):
                inside = None if argument is None else argument.to(lm.device, copy=True)
                calls.append(Call(name, module, inside, output.to(lm.device, copy=True)))

        return note

    with ExitStack() as hooks:
        for name, module in lm.blocks[layer].named_modules():
            if name:
                hooks.callback(module.register_forward_hook(noted(name), with_kwargs=True).remove)
        residuals = residuals_at(lm, probe_ids(lm), [layer, layer + 1])
    return Parts(layer, residuals[layer], residuals[layer + 1], tuple(calls))


def normalized_input(lm: LanguageModel, parts: Parts) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The norm that makes the MLP's input, and what brings the norm's own input to its output before gain and bias (TransformerLens's
    ln2.hook_normalized)."""
    mlp = parts.mlp(lm)
    norms = [call for call in parts.calls if torch.equal(call.output, mlp.argument) and getattr(call.module, "weight", None) is not None]
    if norms:
        norm = norms[0].module
        epsilon = float(next((getattr(norm, name) for name in ("variance_epsilon", "eps", "epsilon") if hasattr(norm, name)), 0.0))

        def rms_normalized(x: Tensor) -> Tensor:
            rows = x.to(torch.promote_types(x.dtype, torch.float32))
            return rows * (rows.square().mean(dim=-1, keepdim=True) + epsilon).rsqrt()

        def layer_normalized(x: Tensor) -> Tensor:
            return rms_normalized(x - x.mean(dim=-1, keepdim=True))

        for view in (rms_normalized, layer_normalized):
            if _is_norm(norms[0], view(norms[0].argument)):
                return norm, view
    raise ValueError(
        f"{lm.name}: the norm before the MLP of layer {parts.layer} is neither a LayerNorm nor an RMSNorm, so what a transcoder of"
        " normalised residuals reads is not known"
    )


def _is_norm(call: Call, normalized: Tensor) -> bool:
    """Whether the module's output is this, times its weight (or 1 + it, in Gemma's norms), plus its bias."""
    weight, bias = call.module.weight.to(normalized), getattr(call.module, "bias", None)
    shift = 0 if bias is None else bias.to(normalized)
    output, tolerance = call.output.to(normalized), 1e-4 if call.output.dtype == torch.float32 else 2e-2
    return any(torch.allclose(normalized * gain + shift, output, rtol=tolerance, atol=tolerance) for gain in (weight, 1 + weight))
