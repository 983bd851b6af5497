"""Adapters and changed weights, and how they act on a running model: installed for one forward of rows [row seq], and always removed.

The same code runs while an adapter is trained and while it steers: gradients flow to the adapter's tensors where they ask for them.
Arithmetic is in the adapter's number format, its result in the model's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from saesteer.engine.continuation import BatchSteering
from saesteer.engine.models import LanguageModel, depth_of, residual_changed
from saesteer.engine.quantised import is_quantised
from saesteer.engine.steering import Intervention, SteeredRows

ALGORITHM_VERSION = 2

DEPTHS = (5 / 26, 10 / 26, 15 / 26, 20 / 26)
"""Adapted layers as shares of the model's layers: 5, 10, 15 and 20 of Gemma-2-2b's 26 (P4, arXiv 2501.17148)."""


@dataclass(frozen=True)
class Adapter(Intervention, ABC):
    """A low-rank adapter. Rows of a batch agree in `kind_of_batch` only: their tensors are then [layer row ...]."""

    at_layer = False

    @property
    def kind_of_batch(self) -> object:
        tensors = self.tensors
        values = tuple(value for name, value in vars(self).items() if name not in {*tensors, "unit"})  # layers, scaling, positions
        return type(self), values, tuple(tensor.shape for tensor in tensors.values())

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        every = [adapter.tensors for adapter in interventions]
        tensors = {name: torch.stack([of[name].to(rows.factor.device) for of in every], dim=1)[:, rows.which] for name in every[0]}
        units = rows.numbers([getattr(adapter, "unit", 1.0) for adapter in interventions])
        return _AdaptedRows(replace(interventions[0], **tensors), rows.factor * units)

    @abstractmethod
    def installed(self, lm: LanguageModel, factor: Float[Tensor, " row"], start: int, prompt_length: int) -> AbstractContextManager[None]:
        """As of `BatchSteering`, with each row's adapter and factor."""


@dataclass(frozen=True)
class LowRankWeights(Adapter):
    """LoRA (arXiv 2106.09685; P4, arXiv 2501.17148): attention's output projection of some layers adds `factor * scaling * B A x` to its
    output for an input x, which is the weight `W + factor * scaling * B @ A`. A is as wide as the widest input, and of a narrower one's its
    first columns count."""

    kind = "low_rank_weights"
    not_constant = "is an adapter (LoRA), which changes weights"

    layers: tuple[int, ...]
    A: Float[Tensor, "layer *row rank d_in"]  # with rows: one adapter a row of a batch
    B: Float[Tensor, "layer *row d_out rank"]
    scaling: float  # alpha / sqrt(rank), as P4's program has it

    def scaled(self, unit: float) -> Intervention | None:
        return replace(self, B=unit * self.B)

    @contextmanager
    def installed(self, lm: LanguageModel, factor: Float[Tensor, " row"], start: int = 0, prompt_length: int = 0) -> Iterator[None]:
        strength = (factor * self.scaling)[:, None, None]

        def added(A: Tensor, B: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
            def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
                x = args[0].to(lm.device, A.dtype)  # a block may be on another GPU than the head, where adapters are
                return output + (strength * (x @ A[..., : x.shape[-1]].mT @ B.mT)).to(output.device, output.dtype)

            return hook

        with ExitStack() as hooks:
            for layer, A, B in zip(self.layers, self.A, self.B, strict=True):
                hooks.callback(attention_output(lm, layer).register_forward_hook(added(A, B)).remove)
            yield


@dataclass(frozen=True)
class LowRankSubspace(Adapter):
    """LoReFT (arXiv 2404.03592; P4, arXiv 2501.17148): the residual h after some layers becomes `h + factor * R^T (W h + b - R h)` at the
    first and last positions of the prompt, once where these overlap, and nowhere after it."""

    kind = "low_rank_subspace"
    not_constant = "is an adapter (LoReFT), whose edit depends on the residual"
    not_everywhere = "edits the first and last positions of the prompt, and another program's batches do not say where it ends"

    layers: tuple[int, ...]
    R: Float[Tensor, "layer *row rank d_model"]  # orthonormal; with rows: one edit a row of a batch
    W: Float[Tensor, "layer *row rank d_model"]
    b: Float[Tensor, "layer *row rank"]
    n_first: int
    n_last: int
    unit: float = 1.0  # what factor 1 is multiplied by

    def scaled(self, unit: float) -> Intervention | None:
        return replace(self, unit=unit * self.unit)

    @property
    def plain_values(self) -> dict[str, Any]:
        values = super().plain_values
        if self.unit == 1:  # what is fitted without a pilot has the bytes that it had before there were units
            del values["unit"]
        return values

    def installed(self, lm: LanguageModel, factor: Float[Tensor, " row"], start: int, prompt_length: int) -> AbstractContextManager[None]:
        if start >= prompt_length:  # a forward that starts after the prompt is left as it is
            return nullcontext()
        return self.edited(lm, factor, start, torch.full((len(factor),), prompt_length, device=lm.device))

    @contextmanager
    def edited(self, lm: LanguageModel, factor: Float[Tensor, " row"], start: int, prompt_length: Int[Tensor, " row"]) -> Iterator[None]:
        """`installed` for rows that have prompts of their own lengths."""

        def changed(R: Tensor, W: Tensor, b: Tensor) -> Callable[[Tensor], Tensor]:
            def change(residual: Float[Tensor, "row seq d_model"]) -> Float[Tensor, "row seq d_model"]:
                position = start + torch.arange(residual.shape[1], device=prompt_length.device)[None]
                last = position >= prompt_length[:, None] - self.n_last
                edited = ((position < self.n_first) | last) & (position < prompt_length[:, None])  # [row seq]
                strength = torch.where(edited, factor[:, None], 0.0)[:, :, None]
                h = residual.to(R.dtype)
                return residual + (strength * ((h @ W.mT + b.unsqueeze(-2) - h @ R.mT) @ R)).to(residual.dtype)

            return change

        with ExitStack() as hooks:
            for layer, R, W, b in zip(self.layers, self.R, self.W, self.b, strict=True):
                hooks.enter_context(residual_changed(lm, depth_of(lm, layer, "resid_post"), changed(R, W, b)))
            yield


@dataclass(frozen=True)
class WeightChange(Intervention):
    """Fine-tuned weights: every parameter `p + factor * change[p]`."""

    kind, at_layer = "weight_change", False
    not_constant = "is a fine-tuned model"

    change: Mapping[str, Tensor]

    @property
    def kind_of_batch(self) -> object:
        return id(self)

    def scaled(self, unit: float) -> Intervention | None:
        return WeightChange({name: unit * tensor for name, tensor in self.change.items()})

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        return _ChangedWeights(changed_weights(rows.lm, interventions[0], rows.factor))

    @property
    def tensors(self) -> dict[str, Tensor]:
        return dict(self.change)

    @property
    def plain_values(self) -> dict[str, Any]:
        return {}

    @classmethod
    def of(cls, tensors: dict[str, Tensor], plain_values: dict[str, Any]) -> Intervention:
        return cls(tensors)


@dataclass(frozen=True)
class _AdaptedRows:
    adapters: Adapter  # tensors [layer row ...]
    factor: Float[Tensor, " row"]

    def take(self, rows: Int[Tensor, " kept"]) -> BatchSteering:
        tensors = {name: tensor[:, rows] for name, tensor in self.adapters.tensors.items()}
        return _AdaptedRows(replace(self.adapters, **tensors), self.factor[rows])

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return self.adapters.installed(lm, self.factor, start, prompt_length)


@dataclass(frozen=True)
class _ChangedWeights:
    """Rows under one model's changed weights."""

    weights: Mapping[str, Tensor]  # by parameter

    def take(self, rows: Int[Tensor, " kept"]) -> BatchSteering:
        return self

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return weights_installed(lm, self.weights)


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
