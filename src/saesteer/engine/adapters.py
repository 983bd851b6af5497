"""Adapters and changed weights as they act on a running model: installed for one forward of rows [row seq], and always removed.

The same code runs while an adapter is trained and while it steers: gradients flow to the adapter's tensors where they ask for them.
Arithmetic is in the adapter's number format, its result in the model's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saesteer.engine.interventions import LowRankSubspace, LowRankWeights, WeightChange
from saesteer.engine.models import LanguageModel, depth_of, residual_changed
from saesteer.engine.quantised import is_quantised

ALGORITHM_VERSION = 2

DEPTHS = (5 / 26, 10 / 26, 15 / 26, 20 / 26)
"""Adapted layers as shares of the model's layers: 5, 10, 15 and 20 of Gemma-2-2b's 26 (P4, arXiv 2501.17148)."""


def adapter_layers(n_layers: int, published: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The layers of a model that adapters change: those published for it, or else by depth (`DEPTHS`); fewer than four where a shallow
    model has not as many."""
    return published or tuple(sorted({round(depth * n_layers) for depth in DEPTHS} & set(range(n_layers))))


def attention_output(lm: LanguageModel, layer: int) -> nn.Module:
    """The linear map that brings what a layer's attention, or what is in its place, puts out back to the residual."""
    projection = lm.structure.projections[layer]
    if projection is None:
        names = ", ".join(name for name, _ in lm.blocks[layer].named_children())
        raise ValueError(
            f"{lm.name}: attention of layer {layer} does not end in a linear map to {lm.d_model} dimensions (parts of the block: {names});"
            " LoRA cannot be fitted to this family: leave method lora out"
        )
    return projection


def input_width(projection: nn.Module) -> int:
    """Input width of a linear map; GPT-2's Conv1D holds its weight transposed."""
    return int(projection.weight.shape[0 if isinstance(projection, Conv1D) else 1])


@contextmanager
def low_rank_weights_installed(lm: LanguageModel, intervention: LowRankWeights, factor: Float[Tensor, " row"]) -> Iterator[None]:
    """Within the context, attention's output projection of each adapted layer adds `factor * scaling * B A x` to its output for an input x,
    which is the weight `W + factor * scaling * B A` (LoRA, arXiv 2106.09685; P4, arXiv 2501.17148). Rows share an adapter or have their
    own. A is as wide as the widest input, and of a narrower one's its first columns count."""
    strength = (factor * intervention.scaling)[:, None, None]

    def added(A: Tensor, B: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            x = args[0].to(A.dtype)
            return output + (strength * (x @ A[..., : x.shape[-1]].mT @ B.mT)).to(output.dtype)

        return hook

    with ExitStack() as hooks:
        for layer, A, B in zip(intervention.layers, intervention.A, intervention.B, strict=True):
            hooks.callback(attention_output(lm, layer).register_forward_hook(added(A, B)).remove)
        yield


@contextmanager
def subspace_edited(
    lm: LanguageModel, intervention: LowRankSubspace, factor: Float[Tensor, " row"], start: int, prompt_length: Int[Tensor, " row"]
) -> Iterator[None]:
    """Within the context, the residual h after each adapted layer becomes `h + factor * R^T (W h + b - R h)` at the first and last
    positions of each row's prompt: once where these overlap, and nowhere after it (LoReFT, arXiv 2404.03592; P4, arXiv 2501.17148).
    The rows' first token has position `start`; rows share an adapter or have their own."""

    def changed(R: Tensor, W: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
        def change(residual: Float[Tensor, "row seq d_model"]) -> Float[Tensor, "row seq d_model"]:
            position = start + torch.arange(residual.shape[1], device=prompt_length.device)[None]
            last = position >= prompt_length[:, None] - intervention.n_last
            edited = ((position < intervention.n_first) | last) & (position < prompt_length[:, None])  # [row seq]
            strength = torch.where(edited, factor[:, None], 0.0)[:, :, None]
            h = residual.to(R.dtype)
            return residual + (strength * ((h @ W.mT + b.unsqueeze(-2) - h @ R.mT) @ R)).to(residual.dtype)

        return change

    with ExitStack() as hooks:
        for layer, R, W, b in zip(intervention.layers, intervention.R, intervention.W, intervention.b, strict=True):
            hooks.enter_context(residual_changed(lm, depth_of(lm, layer, "resid_post"), changed(R, W, b)))
        yield


def low_rank_subspace_installed(
    lm: LanguageModel, intervention: LowRankSubspace, factor: Float[Tensor, " row"], start: int, prompt_length: int
) -> AbstractContextManager[None]:
    """`subspace_edited` for rows whose prompts have equally many tokens. A forward that starts after the prompt is left as it is."""
    if start >= prompt_length:
        return nullcontext()
    return subspace_edited(lm, intervention, factor, start, torch.full((len(factor),), prompt_length, device=lm.device))


def check_changeable(lm: LanguageModel) -> None:
    """Refuse to change the weights of a model with quantised ones."""
    if any(is_quantised(weight) for weight in lm.model.parameters()):
        raise ValueError(
            f"{lm.name}: quantised weights cannot be trained or changed: set the model's dtype to bfloat16 (on a GPU) or float32,"
            " or leave out method sft"
        )


def changed_weights(lm: LanguageModel, intervention: WeightChange, factor: Float[Tensor, " row"]) -> dict[str, Tensor]:
    """The changed parameters, `p + factor * change[p]`, by name: a second copy of them; tied ones are there once. Rows share the model's
    weights, and so must share a factor. A change for another model is refused."""
    if not len(factor) or bool((factor != factor[:1]).any()):
        distinct = factor.unique().tolist()
        raise ValueError(
            f"rows under changed weights must share one factor, but there are {len(distinct)} ({', '.join(map(str, distinct[:5]))}): "
            "steer with one factor at a time"
        )
    check_changeable(lm)
    shared, parameters, weights = float(factor[0]), dict(lm.model.named_parameters()), {}
    for name, change in intervention.change.items():
        shape = tuple(parameters[name].shape) if name in parameters else "no such parameter"
        if shape != tuple(change.shape):
            raise ValueError(
                f"{lm.name}: the changed weights hold {name} of shape {tuple(change.shape)}, but the model has {shape}; they belong to "
                "another model: fit method sft again"
            )
        weight = parameters[name].data
        weights[name] = (weight + shared * change.to(weight.device)).to(weight.dtype)
    return weights


@contextmanager
def weights_installed(lm: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context, the model has these parameters; afterwards they hold the very tensors that they held before."""
    parameters = {name: lm.model.get_parameter(name) for name in weights}
    earlier = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, weight in weights.items():
            parameters[name].data = weight
        yield
    finally:
        for name, weight in earlier.items():
            parameters[name].data = weight
