"""Interventions as they act on a running model: one factor a row, installed for one forward and always removed.

Rows that are steered together share a kind. Additions, activation edits and adapters of one shape differ from row to row; fine-tuned
weights belong to one intervention and factor.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.core.errors import SettingsError
from saesteer.engine.adapters import changed_weights, low_rank_subspace_installed, low_rank_weights_installed, weights_installed
from saesteer.engine.amplify import amplify
from saesteer.engine.continuation import Steering
from saesteer.engine.hook_points import HookPoint, sae_hook_point, steered
from saesteer.engine.interventions import (
    ActivationEdit,
    Addition,
    ConditionalAddition,
    ConditionalClamp,
    DecayingAddition,
    Intervention,
    LowRankSubspace,
    LowRankWeights,
    Nothing,
    Projection,
    ProjectionFloor,
    PromptText,
    ScaledComponent,
    WeightChange,
    tensors_of,
)
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, encode, encoder_input, largest_activation, written_size

ALGORITHM_VERSION = 2


def together(interventions: Sequence[Intervention]) -> list[list[int]]:
    """Which interventions can steer rows of one batch: places in groups, in order of their first member."""
    groups: dict[object, list[int]] = {}
    for place, intervention in enumerate(interventions):
        groups.setdefault(intervention.kind_of_batch, []).append(place)
    return list(groups.values())


def changes_prompt(intervention: Intervention) -> bool:
    """Whether keys and values of the prompt, its last token's aside, differ from the unsteered model's."""
    return not (isinstance(intervention, Nothing | PromptText) or intervention.from_last_token)


def steering_of(
    lm: LanguageModel,
    interventions: Sequence[Intervention],
    which: Int[Tensor, " row"],
    factor: Float[Tensor, " row"],
    sae: Sae,
    hook_point: HookPoint,
) -> Steering:
    """The steering of rows, each by one of the interventions (all of one group of `together`) at its own factor, which is 0 where a
    condition is not met (engine.conditional.switched)."""
    first = interventions[0]
    if isinstance(first, WeightChange):
        return _Weights(changed_weights(lm, first, factor))
    if additions := [item for item in interventions if isinstance(item, Addition | ConditionalAddition | DecayingAddition)]:
        return _additions(additions, which, factor, sae, hook_point)
    if components := [item for item in interventions if isinstance(item, Projection | ScaledComponent)]:
        sign = -1 if isinstance(first, Projection) else 1
        return _ScaledComponents(hook_point, _rows_of_vectors(components, which, factor), sign * factor)
    if floors := [item for item in interventions if isinstance(item, ProjectionFloor)]:
        scale = _rows_of_numbers([item.scale for item in floors], which, factor)
        return _Floors(hook_point, _rows_of_vectors(floors, which, factor), factor * scale)
    if edits := [item for item in interventions if isinstance(item, ActivationEdit | ConditionalClamp)]:
        return _activation_edits(edits, which, factor, sae, hook_point)
    if adapters := [item for item in interventions if isinstance(item, LowRankWeights | LowRankSubspace)]:
        every = [tensors_of(adapter) for adapter in adapters]
        rows = {name: torch.stack([tensors[name].to(factor.device) for tensors in every], dim=1)[:, which] for name in every[0]}
        units = _rows_of_numbers([getattr(adapter, "unit", 1.0) for adapter in adapters], which, factor)
        return _Adapters(replace(adapters[0], **rows), factor * units)
    return _Weights({})


@dataclass(frozen=True)
class _AtHookPoint:
    """A change of what lies at a hook point, at every position; its tensors have a row for each row that is steered."""

    hook_point: HookPoint

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[rows] for name, value in values.items() if isinstance(value, Tensor)})

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return steered(lm, self.hook_point, self.changed)

    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        """What takes the place of the value, where the encoder reads `read`."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Additions(_AtHookPoint):
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


def _additions(
    additions: Sequence[Addition | ConditionalAddition | DecayingAddition],
    which: Tensor,
    factor: Tensor,
    sae: Sae,
    hook_point: HookPoint,
) -> _Additions:
    scales = [addition.scale for addition in additions if addition.scale is not None]
    decays = [addition.decay for addition in additions if isinstance(addition, DecayingAddition)]
    scale, decay = (_rows_of_numbers(numbers, which, factor) if numbers else None for numbers in (scales, decays))
    vector = _rows_of_vectors(additions, which, factor)
    return _Additions(hook_point, sae, vector, factor, scale, not additions[0].from_last_token, decay)


_OfVector = Addition | ConditionalAddition | DecayingAddition | Projection | ScaledComponent | ProjectionFloor


def _rows_of_vectors(of: Sequence[_OfVector], which: Tensor, factor: Tensor) -> Float[Tensor, "row d_model"]:
    return torch.stack([one.vector for one in of]).to(factor)[which]


def _rows_of_numbers(numbers: Sequence[float], which: Tensor, factor: Tensor) -> Float[Tensor, " row"]:
    return torch.tensor(numbers, dtype=factor.dtype, device=factor.device)[which]


@dataclass(frozen=True)
class _ScaledComponents(_AtHookPoint):
    """`amplify` with the residual's component along each row's vector: h + factor * (h . v) v, which factor -1 projects out."""

    vector: Float[Tensor, "row d_model"]
    factor: Float[Tensor, " row"]

    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        return amplify(value, self.vector[:, None], self.factor[:, None], _component(value, self.vector))


def _component(value: Float[Tensor, "row seq width"], vector: Float[Tensor, "#row d_model"]) -> Float[Tensor, "row seq"]:
    return (value.to(vector) * vector[:, None]).sum(dim=2)


@dataclass(frozen=True)
class _Floors(_AtHookPoint):
    """The residual's component along each row's vector, raised to the row's floor where it is below."""

    vector: Float[Tensor, "row d_model"]
    floor: Float[Tensor, " row"]

    def changed(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        lacking = (self.floor[:, None] - _component(value, self.vector)).clamp(min=0)
        return value + (lacking[:, :, None] * self.vector[:, None]).to(value.dtype)


@dataclass(frozen=True)
class _ActivationEdits(_AtHookPoint):
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


def _activation_edits(
    edits: Sequence[ActivationEdit | ConditionalClamp], which: Tensor, factor: Tensor, sae: Sae, hook_point: HookPoint
) -> _ActivationEdits:
    def stacked(parts: Sequence[Tensor]) -> Tensor:  # [row k], short ones filled with 0
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True)[which]

    ones = [torch.ones(len(edit.features)).to(factor) for edit in edits]
    values = stacked([one if edit.values is None else edit.values.to(factor) for edit, one in zip(edits, ones, strict=True)])
    present = stacked(ones)
    features = stacked([edit.features.to(factor.device) for edit in edits])
    encoder, bias, threshold, decoder = (part[features].to(factor) for part in (sae.W_enc.T, sae.b_enc, sae.threshold, sae.W_dec))
    where_active = isinstance(edits[0], ConditionalClamp)
    by_a_max = edits[0].values is None
    values = values * factor[:, None]
    return _ActivationEdits(hook_point, sae, features, encoder, bias, threshold, decoder, values, present, where_active, by_a_max)


@dataclass(frozen=True)
class _Adapters:
    """Rows under adapters of their own: their tensors are [layer row ...]."""

    adapters: LowRankWeights | LowRankSubspace
    factor: Float[Tensor, " row"]

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        tensors = {name: tensor[:, rows] for name, tensor in tensors_of(self.adapters).items()}
        return _Adapters(replace(self.adapters, **tensors), self.factor[rows])

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        if isinstance(self.adapters, LowRankWeights):
            return low_rank_weights_installed(lm, self.adapters, self.factor)
        return low_rank_subspace_installed(lm, self.adapters, self.factor, start, prompt_length)


@dataclass(frozen=True)
class _Weights:
    """Rows under one model's changed weights, or unsteered ones."""

    weights: Mapping[str, Tensor]  # by parameter; none: the model as it is

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        return self

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return weights_installed(lm, self.weights)


def check_every_position(intervention: Intervention) -> None:
    """Refuse an intervention that is more, or other, than a change at each position by itself."""
    reason = intervention.not_everywhere
    if not reason and intervention.from_last_token:
        reason = "steers from the prompt's last position on (P1's protocol), and another program's batches do not say where the prompt ends"
    if reason:
        able = "vectors, projections, activation edits, LoRA and fine-tuned weights"
        raise SettingsError(f"this intervention {reason}; {able} act at every position")


def steered_model(lm: LanguageModel, sae: Sae, layer: int, intervention: Intervention, factor: float) -> AbstractContextManager[None]:
    """Within the context, every forward of `lm.model` is steered, also in batches of other programs: of any size, padded on either side,
    with or without a cache. Each row is steered by the one row of the steering, which broadcasts. Padding is changed as well, and attention
    does not look there. Such a program chooses its batches, so rows may differ in the last digits from those of one's own forwards."""
    check_every_position(intervention)
    which, factors = torch.zeros(1, dtype=torch.long, device=lm.device), torch.full((1,), factor, device=lm.device)
    return steering_of(lm, [intervention], which, factors, sae, sae_hook_point(lm, layer, sae.meta)).installed(lm, 0, 1)


def features_steered(lm: LanguageModel, sae: Sae, factors: Mapping[int, float], everywhere: bool) -> AbstractContextManager[None]:
    """Within the context, every forward adds the sum over features of factor * a_max * decoder direction (P1, arXiv 2505.20063, section 3)
    at its last position or at every one, whatever code runs it."""
    weights = torch.tensor(list(factors.values()), device=sae.W_dec.device)
    vector = (weights[:, None] * sae.W_dec[list(factors)]).sum(dim=0, keepdim=True).to(lm.device)
    hook_point = sae_hook_point(lm, sae.meta.layer, sae.meta)
    additions = _Additions(hook_point, sae, vector, torch.ones(1, device=lm.device), None, everywhere, None)
    return steered(lm, hook_point, lambda value, read: additions.added_from(0 if everywhere else value.shape[1] - 1, value, read))
