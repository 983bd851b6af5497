"""What a method gives back: how the model is to be steered, at every strength. One frozen dataclass a kind.

`factor` 1 is the strength that the method itself names (an activation on the concept's texts, an adapter as trained); steering with a
factor f scales the edit by f. Each kind is stored as tensors and JSON values (`packed`, `unpacked`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from jaxtyping import Float, Int
from safetensors.torch import load, save
from torch import Tensor

ALGORITHM_VERSION = 2


@dataclass(frozen=True)
class Nothing:
    """The model as it is: the unsteered control."""


@dataclass(frozen=True)
class Addition:
    """`h + factor * scale * vector` at every position (P4, arXiv 2501.17148, section 4), or at the last one of every forward (P1, arXiv
    2505.20063, section 3)."""

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float | None  # activation that factor 1 adds; None: a_max, the largest feature activation at each position (P1)
    positions: Literal["all", "last"] = "all"
    features: tuple[int, ...] = ()  # of the SAE whose decoder directions the vector is made of; none for other vectors


@dataclass(frozen=True)
class ConditionalAddition:
    """An addition at every position of texts whose prompt meets a condition, and nothing to others (CAST, arXiv 2409.05907): sim(h, c) >
    threshold or, where it is not `above`, sim(h, c) < threshold (engine.conditional), with h the prompt's mean residual."""

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float  # activation that factor 1 adds
    condition: Float[Tensor, " d_model"]  # c
    threshold: float
    above: bool


@dataclass(frozen=True)
class DecayingAddition:
    """`h + factor * decay**t * scale * vector` at the t-th position from the prompt's last one on, t = 0 there. Steering that decays over
    tokens is of arXiv 2510.01246; that it decays geometrically is ours, as the paper's schedule could not be looked up."""

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float  # activation that factor 1 adds at t = 0
    decay: float  # in [0, 1]
    features: tuple[int, ...] = ()  # as of Addition


@dataclass(frozen=True)
class ActivationEdit:
    """Features' activations set to `factor * values` at every position: the difference, decoded, is added, so the SAE's error stays (P3,
    arXiv 2605.31183; P4's clamping)."""

    features: Int[Tensor, " k"]
    values: Float[Tensor, " k"]  # activations at factor 1


@dataclass(frozen=True)
class ConditionalClamp:
    """An activation edit at positions where the feature is active, and nothing at others: clamping to a negative value suppresses (arXiv
    2410.19278, section 3; 2503.11127). At factor 0 it is the edit itself, for an activation of 0 is one that is not active."""

    features: Int[Tensor, " k"]
    values: Float[Tensor, " k"] | None  # activations at factor 1; None: a_max, the largest feature activation at each position (P1)


@dataclass(frozen=True)
class Projection:
    """`h - factor * (h . v) v` at every position: factor 1 leaves nothing along v (directional ablation, arXiv 2406.11717, section
    2.4: there in every layer, here at the SAE's hook point alone)."""

    vector: Float[Tensor, " d_model"]  # unit norm


@dataclass(frozen=True)
class ScaledComponent:
    """`h + factor * (h . v) v` at every position: Neuronpedia's orthogonal decomposition, (I - P) h + s P h with P = v v^T and s = 1 +
    factor."""

    vector: Float[Tensor, " d_model"]  # unit norm
    features: tuple[int, ...] = ()  # as of Addition


@dataclass(frozen=True)
class ProjectionFloor:
    """`h + max(factor * scale - h . v, 0) v` at every position: the component along v is raised to a floor where it is below. With -v and
    the factor's sign changed it is a cap: Neuronpedia's projection cap, and the activation capping of arXiv 2601.10387."""

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float  # floor at factor 1
    features: tuple[int, ...] = ()  # as of Addition


@dataclass(frozen=True)
class LowRankWeights:
    """LoRA: `W + factor * scaling * B @ A` for the output projection of attention in some layers (P4)."""

    layers: tuple[int, ...]
    A: Float[Tensor, "layer *row rank d_in"]  # with rows: one adapter a row of a batch
    B: Float[Tensor, "layer *row d_out rank"]
    scaling: float  # alpha / sqrt(rank), as P4's program has it


@dataclass(frozen=True)
class LowRankSubspace:
    """LoReFT: `h + factor * R^T (W h + b - R h)` after some layers, at the first and last positions of the prompt (P4)."""

    layers: tuple[int, ...]
    R: Float[Tensor, "layer *row rank d_model"]  # orthonormal; with rows: one edit a row of a batch
    W: Float[Tensor, "layer *row rank d_model"]
    b: Float[Tensor, "layer *row rank"]
    n_first: int
    n_last: int
    unit: float = 1.0  # what factor 1 is multiplied by


@dataclass(frozen=True)
class WeightChange:
    """Fine-tuned weights: every parameter `p + factor * change[p]`."""

    change: Mapping[str, Tensor]


@dataclass(frozen=True)
class PromptText:
    """What is put before the prompt; `texts[i]` at factor i + 1. For a model that answers it is part of the user's turn."""

    texts: tuple[str, ...]


Intervention = (
    Nothing
    | Addition
    | ConditionalAddition
    | DecayingAddition
    | ActivationEdit
    | ConditionalClamp
    | Projection
    | ScaledComponent
    | ProjectionFloor
    | LowRankWeights
    | LowRankSubspace
    | WeightChange
    | PromptText
)

KINDS: dict[str, type[Intervention]] = {
    "nothing": Nothing,
    "addition": Addition,
    "conditional_addition": ConditionalAddition,
    "decaying_addition": DecayingAddition,
    "activation_edit": ActivationEdit,
    "conditional_clamp": ConditionalClamp,
    "projection": Projection,
    "scaled_component": ScaledComponent,
    "projection_floor": ProjectionFloor,
    "low_rank_weights": LowRankWeights,
    "low_rank_subspace": LowRankSubspace,
    "weight_change": WeightChange,
    "prompt_text": PromptText,
}


def kind_of(intervention: Intervention) -> str:
    """The name of an intervention's kind in tables."""
    return next(name for name, kind in KINDS.items() if isinstance(intervention, kind))


def scaled(intervention: Intervention, unit: float) -> Intervention | None:
    """The intervention whose factor 1 is the factor `unit` of this one; None where it has no strength, or another at each position."""
    match intervention:
        case Addition(scale=float(scale)) | ConditionalAddition(scale=scale) | DecayingAddition(scale=scale):
            return replace(intervention, scale=unit * scale)
        case ProjectionFloor(scale=scale):
            return replace(intervention, scale=unit * scale)
        case ActivationEdit(values=values) | ConditionalClamp(values=Tensor() as values):
            return replace(intervention, values=unit * values)
        case LowRankWeights(B=B):
            return replace(intervention, B=unit * B)
        case LowRankSubspace(unit=before):
            return replace(intervention, unit=unit * before)
        case WeightChange(change=change):
            return WeightChange({name: unit * tensor for name, tensor in change.items()})
    return None


def features_of(intervention: Intervention) -> list[int]:
    """The SAE's features that an intervention is made of; none where it is made of something else."""
    features = getattr(intervention, "features", ())
    return features.tolist() if isinstance(features, Tensor) else list(features)


def tensors_of(intervention: Intervention) -> dict[str, Tensor]:
    """An intervention's tensors by name."""
    if isinstance(intervention, WeightChange):
        return dict(intervention.change)
    values = {field.name: getattr(intervention, field.name) for field in fields(intervention)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def packed(intervention: Intervention) -> tuple[bytes, str]:
    """An intervention as safetensors bytes and JSON."""
    tensors = tensors_of(intervention)
    names = [field.name for field in fields(intervention) if field.name not in {*tensors, "change"}]
    plain = {name: getattr(intervention, name) for name in names}
    if plain.get("unit") == 1:  # what is fitted without a pilot has the bytes that it had before there were units
        del plain["unit"]
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}), json.dumps(plain, sort_keys=True)


def unpacked(kind: str, tensors: bytes, values: str) -> Intervention:
    """An intervention from what `packed` made, in the host's memory."""
    loaded = load(tensors)
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(values).items()}
    if kind == "weight_change":
        return WeightChange(loaded)
    return KINDS[kind](**loaded, **plain)
