"""What a method gives back: how the model is to be steered, at every strength. One frozen dataclass a kind, which says all that is asked of
it but how it acts on a running model (engine.steering).

`factor` 1 is the strength that the method itself names (an activation on the concept's texts, an adapter as trained); steering with a
factor f scales the edit by f. Each kind is stored as tensors and JSON values (`packed`, `unpacked`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from jaxtyping import Float, Int
from safetensors.torch import load, save
from torch import Tensor

ALGORITHM_VERSION = 2


@dataclass(frozen=True)
class Intervention:
    """Of any kind."""

    kind: ClassVar[str]
    """Its name in tables."""
    at_layer: ClassVar[bool] = True
    """Whether it leaves the blocks below the layer as they are."""
    not_constant: ClassVar[str]
    """Why it is no vector that is added without a look at the text: it ..."""
    not_everywhere: ClassVar[str] = ""
    """Why it is more, or other, than a change at each position by itself: it ..."""

    @property
    def from_last_token(self) -> bool:
        """Whether it acts from the prompt's last token on."""
        return False

    @property
    def kind_of_batch(self) -> object:
        """What interventions have in common that can steer rows of one batch."""
        return type(self)


@dataclass(frozen=True)
class Nothing(Intervention):
    """The model as it is: the unsteered control."""

    kind, at_layer = "nothing", False
    not_constant = "changes nothing"
    not_everywhere = "changes nothing: it is the unsteered model"


@dataclass(frozen=True)
class Addition(Intervention):
    """`h + factor * scale * vector` at every position (P4, arXiv 2501.17148, section 4), or at the last one of every forward (P1, arXiv
    2505.20063, section 3)."""

    kind = "addition"

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float | None  # activation that factor 1 adds; None: a_max, the largest feature activation at each position (P1)
    positions: Literal["all", "last"] = "all"
    features: tuple[int, ...] = ()  # of the SAE whose decoder directions the vector is made of; none for other vectors

    @property
    def from_last_token(self) -> bool:
        return self.positions == "last"

    @property
    def kind_of_batch(self) -> object:
        return Addition, self.positions, self.scale is None


@dataclass(frozen=True)
class ConditionalAddition(Intervention):
    """An addition at every position of texts whose prompt meets a condition, and nothing to others (CAST, arXiv 2409.05907): sim(h, c) >
    threshold or, where it is not `above`, sim(h, c) < threshold (engine.conditional), with h the prompt's mean residual."""

    kind = "conditional_addition"
    not_constant = "decides by each prompt whether to add its vector"
    not_everywhere = "decides by each prompt whether to steer, and another program's batches do not say what is prompt"

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float  # activation that factor 1 adds
    condition: Float[Tensor, " d_model"]  # c
    threshold: float
    above: bool


@dataclass(frozen=True)
class DecayingAddition(Intervention):
    """`h + factor * decay**t * scale * vector` at the t-th position from the prompt's last one on, t = 0 there. Steering that decays over
    tokens is of arXiv 2510.01246; that it decays geometrically is ours, as the paper's schedule could not be looked up."""

    kind = "decaying_addition"
    from_last_token = True
    not_constant = "adds less at each further token"
    not_everywhere = "weakens from the prompt's last position on, and another program's batches do not say where the prompt ends"

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float  # activation that factor 1 adds at t = 0
    decay: float  # in [0, 1]
    features: tuple[int, ...] = ()  # as of Addition


@dataclass(frozen=True)
class ActivationEdit(Intervention):
    """Features' activations set to `factor * values` at every position: the difference, decoded, is added, so the SAE's error stays (P3,
    arXiv 2605.31183; P4's clamping)."""

    kind = "activation_edit"
    not_constant = "sets (clamps) feature activations, by a different amount at each position"

    features: Int[Tensor, " k"]
    values: Float[Tensor, " k"]  # activations at factor 1


@dataclass(frozen=True)
class ConditionalClamp(Intervention):
    """An activation edit at positions where the feature is active, and nothing at others: clamping to a negative value suppresses (arXiv
    2410.19278, section 3; 2503.11127). At factor 0 it is the edit itself, for an activation of 0 is one that is not active."""

    kind = "conditional_clamp"
    not_constant = "sets (clamps) feature activations where the feature is active, by a different amount at each position"

    features: Int[Tensor, " k"]
    values: Float[Tensor, " k"] | None  # activations at factor 1; None: a_max, the largest feature activation at each position (P1)

    @property
    def kind_of_batch(self) -> object:
        return ConditionalClamp, self.values is None


@dataclass(frozen=True)
class Projection(Intervention):
    """`h - factor * (h . v) v` at every position: factor 1 leaves nothing along v (directional ablation, arXiv 2406.11717, section
    2.4: there in every layer, here at the SAE's hook point alone)."""

    kind = "projection"
    not_constant = "takes away what each position has along its vector, a different amount at each"

    vector: Float[Tensor, " d_model"]  # unit norm


@dataclass(frozen=True)
class ScaledComponent(Intervention):
    """`h + factor * (h . v) v` at every position: Neuronpedia's orthogonal decomposition, (I - P) h + s P h with P = v v^T and s = 1 +
    factor."""

    kind = "scaled_component"
    not_constant = "scales what each position has along its vector, a different amount at each"

    vector: Float[Tensor, " d_model"]  # unit norm
    features: tuple[int, ...] = ()  # as of Addition


@dataclass(frozen=True)
class ProjectionFloor(Intervention):
    """`h + max(factor * scale - h . v, 0) v` at every position: the component along v is raised to a floor where it is below. With -v and
    the factor's sign changed it is a cap: Neuronpedia's projection cap, and the activation capping of arXiv 2601.10387."""

    kind = "projection_floor"
    not_constant = "raises what each position has along its vector to a floor, by a different amount at each"

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float  # floor at factor 1
    features: tuple[int, ...] = ()  # as of Addition


@dataclass(frozen=True)
class Adapter(Intervention):
    """Of low rank."""

    at_layer = False

    @property
    def kind_of_batch(self) -> object:
        tensors = tensors_of(self)
        values = tuple(value for name, value in vars(self).items() if name not in {*tensors, "unit"})  # layers, scaling, positions
        return type(self), values, tuple(tensor.shape for tensor in tensors.values())


@dataclass(frozen=True)
class LowRankWeights(Adapter):
    """LoRA: `W + factor * scaling * B @ A` for the output projection of attention in some layers (P4)."""

    kind = "low_rank_weights"
    not_constant = "is an adapter (LoRA), which changes weights"

    layers: tuple[int, ...]
    A: Float[Tensor, "layer *row rank d_in"]  # with rows: one adapter a row of a batch
    B: Float[Tensor, "layer *row d_out rank"]
    scaling: float  # alpha / sqrt(rank), as P4's program has it


@dataclass(frozen=True)
class LowRankSubspace(Adapter):
    """LoReFT: `h + factor * R^T (W h + b - R h)` after some layers, at the first and last positions of the prompt (P4)."""

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


@dataclass(frozen=True)
class WeightChange(Intervention):
    """Fine-tuned weights: every parameter `p + factor * change[p]`."""

    kind, at_layer = "weight_change", False
    not_constant = "is a fine-tuned model"

    change: Mapping[str, Tensor]

    @property
    def kind_of_batch(self) -> object:
        return id(self)


@dataclass(frozen=True)
class PromptText(Intervention):
    """What is put before the prompt; `texts[i]` at factor i + 1. For a model that answers it is part of the user's turn."""

    kind, at_layer = "prompt_text", False
    not_constant = "puts text before the prompt"
    not_everywhere = "puts text before the prompt and steers nothing: put the text into the tasks' prompts"

    texts: tuple[str, ...]


_KINDS: tuple[type[Intervention], ...] = (
    Nothing,
    Addition,
    ConditionalAddition,
    DecayingAddition,
    ActivationEdit,
    ConditionalClamp,
    Projection,
    ScaledComponent,
    ProjectionFloor,
    LowRankWeights,
    LowRankSubspace,
    WeightChange,
    PromptText,
)
KINDS = {kind.kind: kind for kind in _KINDS}
"""By name."""


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
