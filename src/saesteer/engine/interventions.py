"""The kinds of intervention: what methods give back. One frozen dataclass a kind says all that the rest of the package needs
(engine.steering.Intervention), and how it acts. It is stored as tensors and JSON values (`packed`, `unpacked`)."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from safetensors.torch import load, save
from torch import Tensor, nn

from saesteer.engine.adapters import LowRankSubspace, LowRankWeights, WeightChange
from saesteer.engine.amplify import amplify
from saesteer.engine.conditional import similarity
from saesteer.engine.continuation import BatchSteering
from saesteer.engine.hook_points import sae_hook_point, steered
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, encode, encoder_input, largest_activation, written_size
from saesteer.engine.steering import AtEveryPosition, AtHookPoint, Intervention, SteeredRows

ALGORITHM_VERSION = 2


@dataclass(frozen=True)
class Nothing(Intervention):
    """The model as it is: the unsteered control."""

    kind, at_layer, changes_prompt = "nothing", False, False
    not_constant = "changes nothing"
    not_everywhere = "changes nothing: it is the unsteered model"


@dataclass(frozen=True)
class PromptText(Intervention):
    """What is put before the prompt; `texts[i]` at factor i + 1. For a model that answers it is part of the user's turn."""

    kind, at_layer, changes_prompt = "prompt_text", False, False
    not_constant = "puts text before the prompt"
    not_everywhere = "puts text before the prompt and steers nothing: put the text into the tasks' prompts"

    texts: tuple[str, ...]


@dataclass(frozen=True)
class _AddsVector(Intervention):
    """What adds a multiple of a vector."""

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float | None  # activation that factor 1 adds; None: a_max, the largest feature activation at each position (P1)

    def scaled(self, unit: float) -> Intervention | None:
        return None if self.scale is None else replace(self, scale=unit * self.scale)

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> "_Additions":
        scales = [one.scale for one in interventions if one.scale is not None]
        vector, scale = rows.vectors([one.vector for one in interventions]), rows.numbers(scales) if scales else None
        return _Additions(rows.hook_point, rows.sae, vector, rows.factor, scale, not interventions[0].from_last_token, None)


@dataclass(frozen=True)
class Addition(_AddsVector):
    """`h + factor * scale * vector` at every position (P4, arXiv 2501.17148, section 4), or at the last one of every forward (P1, arXiv
    2505.20063, section 3)."""

    kind = "addition"

    positions: Literal["all", "last"] = "all"
    features: tuple[int, ...] = ()  # of the SAE whose decoder directions the vector is made of; none for other vectors

    @property
    def from_last_token(self) -> bool:
        return self.positions == "last"

    @property
    def kind_of_batch(self) -> object:
        return Addition, self.positions, self.scale is None


@dataclass(frozen=True)
class ConditionalAddition(_AddsVector):
    """An addition at every position of texts whose prompt meets a condition, and nothing to others (CAST, arXiv 2409.05907): sim(h, c) >
    threshold or, where it is not `above`, sim(h, c) < threshold (engine.conditional), with h the prompt's mean residual."""

    kind = "conditional_addition"
    not_constant = "decides by each prompt whether to add its vector"
    not_everywhere = "decides by each prompt whether to steer, and another program's batches do not say what is prompt"

    condition: Float[Tensor, " d_model"]  # c
    threshold: float
    above: bool

    @property
    def unconditional(self) -> Intervention:
        return Addition(self.vector, self.scale)

    def steers(self, mean: Float[Tensor, " d_model"]) -> bool:
        value = float(similarity(mean, self.condition.to(mean)))
        return value > self.threshold if self.above else value < self.threshold


DECAY = 0.9
"""What is left of the strength at each further token: half of it after seven. Ours, see DecayingAddition."""


@dataclass(frozen=True)
class DecayingAddition(_AddsVector):
    """`h + factor * decay**t * scale * vector` at the t-th position from the prompt's last one on, t = 0 there. Steering that decays over
    tokens is of arXiv 2510.01246; that it decays geometrically is ours, as the paper's schedule could not be looked up."""

    kind = "decaying_addition"
    from_last_token = True
    not_constant = "adds less at each further token"
    not_everywhere = "weakens from the prompt's last position on, and another program's batches do not say where the prompt ends"

    decay: float  # in [0, 1]
    features: tuple[int, ...] = ()  # as of Addition

    @property
    def kind_of_batch(self) -> object:
        return DecayingAddition, self.scale is None

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> "_Additions":
        return replace(super().steering(interventions, rows), decay=rows.numbers([one.decay for one in interventions]))


@dataclass(frozen=True)
class _Additions(AtHookPoint):
    """`amplify` with each row's vector and factor, at every position or from the prompt's last token on, where it may decay."""

    sae: Sae
    vector: Float[Tensor, "row d_model"]
    factor: Float[Tensor, " row"]
    scale: Float[Tensor, " row"] | None  # None: a_max, each position's own (the authors' program takes the whole batch's)
    everywhere: bool
    decay: Float[Tensor, " row"] | None  # None: as strong at every position

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        first = 0 if self.everywhere else max(0, prompt_length - 1 - start)  # place of the first position that is steered
        tokens_before = start + first - (prompt_length - 1)

        return steered(lm, self.hook_point, lambda value, read: self.added_from(first, value, read, tokens_before))

    def added_from(
        self, first: int, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"], tokens_before: int = 0
    ) -> Float[Tensor, "row seq width"]:
        """The value with the addition from a position on."""
        if not first:
            return self._added(value, read, tokens_before)
        return torch.cat([value[:, :first], self._added(value[:, first:], read[:, first:], tokens_before)], dim=1)

    def _added(
        self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"], tokens_before: int
    ) -> Float[Tensor, "row seq width"]:
        if self.scale is None:
            scale = largest_activation(self.sae, read.flatten(0, 1)).reshape(read.shape[:2])
        else:
            scale = self.scale[:, None].expand(value.shape[:2])
        if self.decay is not None:
            scale = scale * self.decay[:, None] ** torch.arange(tokens_before, tokens_before + value.shape[1], device=value.device)
        return amplify(value, self.vector[:, None], self.factor[:, None], scale)


@dataclass(frozen=True)
class ActivationEdit(Intervention):
    """Features' activations set to `factor * values` at every position: the difference, decoded, is added, so the SAE's error stays (P3,
    arXiv 2605.31183; P4's clamping)."""

    kind = "activation_edit"
    not_constant = "sets (clamps) feature activations, by a different amount at each position"
    where_active: ClassVar[bool] = False
    """Whether it acts at positions only where the feature is active."""

    features: Int[Tensor, " k"]
    values: Float[Tensor, " k"] | None  # activations at factor 1; None: a_max, the largest feature activation at each position (P1)

    @property
    def kind_of_batch(self) -> object:
        return type(self), self.values is None

    def scaled(self, unit: float) -> Intervention | None:
        return None if self.values is None else replace(self, values=unit * self.values)

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        factor, sae = rows.factor, rows.sae

        def stacked(parts: Sequence[Tensor]) -> Tensor:  # [row k], short ones filled with 0
            return nn.utils.rnn.pad_sequence(list(parts), batch_first=True)[rows.which]

        ones = [torch.ones(len(edit.features)).to(factor) for edit in interventions]
        given = [one if edit.values is None else edit.values.to(factor) for edit, one in zip(interventions, ones, strict=True)]
        features = stacked([edit.features.to(factor.device) for edit in interventions])
        encoder, bias, threshold, decoder = (part[features].to(factor) for part in (sae.W_enc.T, sae.b_enc, sae.threshold, sae.W_dec))
        by_a_max = interventions[0].values is None
        values = stacked(given) * factor[:, None]
        edited = (features, encoder, bias, threshold, decoder, values, stacked(ones))
        return _ActivationEdits(rows.hook_point, sae, *edited, where_active=cls.where_active, by_a_max=by_a_max)


@dataclass(frozen=True)
class ConditionalClamp(ActivationEdit):
    """An activation edit at positions where the feature is active, and nothing at others: clamping to a negative value suppresses (arXiv
    2410.19278, section 3; 2503.11127). At factor 0 it is the edit itself, for an activation of 0 is one that is not active."""

    kind = "conditional_clamp"
    not_constant = "sets (clamps) feature activations where the feature is active, by a different amount at each position"
    where_active = True


@dataclass(frozen=True)
class _ActivationEdits(AtEveryPosition):
    """Features' activations set, in float32 also of a narrower SAE, as `encode` reads them."""

    sae: Sae
    features: Int[Tensor, "row k"]
    encoder: Float[Tensor, "row k d_model"]
    bias: Float[Tensor, "row k"]
    threshold: Float[Tensor, "row k"]
    decoder: Float[Tensor, "row k d_model"]
    values: Float[Tensor, "row k"]  # activations, or multiples of a_max
    present: Float[Tensor, "row k"]  # 0.0 where a row has fewer features than others
    where_active: bool  # only at positions where the feature is active
    by_a_max: bool

    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        activations = self._activations(read)  # [row seq k]
        size = written_size(self.sae.meta, read)[:, :, None]
        if self.by_a_max:  # which has the size in it
            a_max = largest_activation(self.sae, read.flatten(0, 1)).reshape(*read.shape[:2], 1)
            written = self.values[:, None] * a_max - activations * size
        else:
            written = (self.values[:, None] - activations) * size
        written = written * self.present[:, None]
        if self.where_active:
            written = written * (activations != 0)
        return value + torch.einsum("rsk,rkd->rsd", written, self.decoder).to(value.dtype)

    def _activations(self, read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq k"]:
        if self.sae.meta.k is not None:  # which activations are kept depends on all of them
            return encode(self.sae, read).gather(2, self.features[:, None].expand(*read.shape[:2], -1))
        rows = encoder_input(self.sae.meta, read, self.sae.W_enc.dtype).to(self.encoder)
        pre = torch.einsum("rsd,rkd->rsk", rows, self.encoder) + self.bias[:, None]
        return pre.masked_fill(pre <= self.threshold[:, None], 0)


@dataclass(frozen=True)
class Projection(Intervention):
    """`h - factor * (h . v) v` at every position: factor 1 leaves nothing along v (directional ablation, arXiv 2406.11717, section
    2.4: there in every layer, here at the SAE's hook point alone)."""

    kind = "projection"
    not_constant = "takes away what each position has along its vector, a different amount at each"

    vector: Float[Tensor, " d_model"]  # unit norm

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        return _ScaledComponents(rows.hook_point, rows.vectors([one.vector for one in interventions]), -rows.factor)


@dataclass(frozen=True)
class ScaledComponent(Intervention):
    """`h + factor * (h . v) v` at every position: Neuronpedia's orthogonal decomposition, (I - P) h + s P h with P = v v^T and s = 1 +
    factor."""

    kind = "scaled_component"
    not_constant = "scales what each position has along its vector, a different amount at each"

    vector: Float[Tensor, " d_model"]  # unit norm
    features: tuple[int, ...] = ()  # as of Addition

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        return _ScaledComponents(rows.hook_point, rows.vectors([one.vector for one in interventions]), rows.factor)


@dataclass(frozen=True)
class ProjectionFloor(Intervention):
    """`h + max(factor * scale - h . v, 0) v` at every position: the component along v is raised to a floor where it is below. With -v and
    the factor's sign changed it is a cap: Neuronpedia's projection cap, and the activation capping of arXiv 2601.10387."""

    kind = "projection_floor"
    not_constant = "raises what each position has along its vector to a floor, by a different amount at each"

    vector: Float[Tensor, " d_model"]  # unit norm
    scale: float  # floor at factor 1
    features: tuple[int, ...] = ()  # as of Addition

    def scaled(self, unit: float) -> Intervention | None:
        return replace(self, scale=unit * self.scale)

    @classmethod
    def steering(cls, interventions: Sequence[Any], rows: SteeredRows) -> BatchSteering:
        floor = rows.factor * rows.numbers([one.scale for one in interventions])
        return _Floors(rows.hook_point, rows.vectors([one.vector for one in interventions]), floor)


@dataclass(frozen=True)
class _ScaledComponents(AtEveryPosition):
    """`amplify` with the residual's component along each row's vector: h + factor * (h . v) v, which factor -1 projects out."""

    vector: Float[Tensor, "row d_model"]
    factor: Float[Tensor, " row"]

    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        return amplify(value, self.vector[:, None], self.factor[:, None], _component(value, self.vector))


def _component(value: Float[Tensor, "row seq width"], vector: Float[Tensor, "#row d_model"]) -> Float[Tensor, "row seq"]:
    return (value.to(vector) * vector[:, None]).sum(dim=2)


@dataclass(frozen=True)
class _Floors(AtEveryPosition):
    """The residual's component along each row's vector, raised to the row's floor where it is below."""

    vector: Float[Tensor, "row d_model"]
    floor: Float[Tensor, " row"]

    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        lacking = (self.floor[:, None] - _component(value, self.vector)).clamp(min=0)
        return value + (lacking[:, :, None] * self.vector[:, None]).to(value.dtype)


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


def features_of(intervention: Intervention) -> list[int]:
    """The SAE's features that an intervention is made of; none where it is made of something else."""
    features = getattr(intervention, "features", ())
    return features.tolist() if isinstance(features, Tensor) else list(features)


def packed(intervention: Intervention) -> tuple[bytes, str]:
    """An intervention as safetensors bytes and JSON."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in intervention.tensors.items()}
    return save(tensors), json.dumps(intervention.plain_values, sort_keys=True)


def unpacked(kind: str, tensors: bytes, values: str) -> Intervention:
    """An intervention from what `packed` made, in the host's memory."""
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(values).items()}
    return KINDS[kind].of(load(tensors), plain)


def features_steered(lm: LanguageModel, sae: Sae, factors: Mapping[int, float], everywhere: bool) -> AbstractContextManager[None]:
    """Within the context, every forward adds the sum over features of factor * a_max * decoder direction (P1, arXiv 2505.20063, section 3)
    at its last position or at every one, whatever code runs it."""
    weights = torch.tensor(list(factors.values()), device=sae.W_dec.device)
    vector = (weights[:, None] * sae.W_dec[list(factors)]).sum(dim=0, keepdim=True).to(lm.device)
    hook_point = sae_hook_point(lm, sae.meta.layer, sae.meta)
    additions = _Additions(hook_point, sae, vector, torch.ones(1, device=lm.device), None, everywhere, None)
    return steered(lm, hook_point, lambda value, read: additions.added_from(0 if everywhere else value.shape[1] - 1, value, read))
