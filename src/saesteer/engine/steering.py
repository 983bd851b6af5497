"""Interventions as they act on a running model: one factor a row, installed for one forward and always removed.

Rows that are steered together share a kind. Additions, code edits and adapters of one shape differ from row to row; fine-tuned weights
belong to one intervention and factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.engine.adapters import changed_weights, low_rank_subspace_installed, low_rank_weights_installed, weights_installed
from saesteer.engine.amplify import amplify
from saesteer.engine.continuation import Steering
from saesteer.engine.interventions import (
    Addition,
    CodeEdit,
    ConditionalAddition,
    Intervention,
    LowRankSubspace,
    LowRankWeights,
    Nothing,
    PromptText,
    WeightChange,
    tensors_of,
)
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, encode, encoder_input, largest_code, written_size
from saesteer.engine.sites import Site, steered

ALGORITHM_VERSION = 2


def together(interventions: Sequence[Intervention]) -> list[list[int]]:
    """Which interventions can steer rows of one batch: places in groups, in order of their first member."""
    groups: dict[object, list[int]] = {}
    for place, one in enumerate(interventions):
        groups.setdefault(_kind(place, one), []).append(place)
    return list(groups.values())


def _kind(place: int, one: Intervention) -> object:
    if isinstance(one, Addition):
        return Addition, one.positions, one.scale is None
    if isinstance(one, LowRankWeights | LowRankSubspace):
        shapes = tuple(tensor.shape for tensor in tensors_of(one).values())
        plain = (one.scaling,) if isinstance(one, LowRankWeights) else (one.n_first, one.n_last)
        return type(one), one.layers, shapes, plain
    return place if isinstance(one, WeightChange) else type(one)


def changes_prompt(intervention: Intervention) -> bool:
    """Whether keys and values of the prompt, its last token's aside, differ from the unsteered model's."""
    return not (isinstance(intervention, Nothing | PromptText) or (isinstance(intervention, Addition) and intervention.positions == "last"))


def steering_of(
    lm: LanguageModel,
    interventions: Sequence[Intervention],
    which: Int[Tensor, " row"],
    factor: Float[Tensor, " row"],
    sae: Sae,
    site: Site,
) -> Steering:
    """The steering of rows, each by one of the interventions (all of one group of `together`) at its own factor, which is 0 where a
    condition is not met (engine.conditional.switched)."""
    first = interventions[0]
    if isinstance(first, Nothing | PromptText):
        return _Unsteered()
    if isinstance(first, Addition):
        return _additions([one for one in interventions if isinstance(one, Addition)], which, factor, sae, site)
    if isinstance(first, ConditionalAddition):
        given = [Addition(one.vector, one.scale) for one in interventions if isinstance(one, ConditionalAddition)]
        return _additions(given, which, factor, sae, site)
    if isinstance(first, CodeEdit):
        return _code_edits([one for one in interventions if isinstance(one, CodeEdit)], which, factor, sae, site)
    if isinstance(first, WeightChange):
        return _Weights(changed_weights(lm, first, factor))
    return _adapters([one for one in interventions if isinstance(one, LowRankWeights | LowRankSubspace)], which, factor)


@dataclass(frozen=True)
class _Unsteered:
    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        return self

    @contextmanager
    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class _Additions:
    """`amplify` with each row's vector and factor, at every position or from the prompt's last token on."""

    sae: Sae
    site: Site
    vector: Float[Tensor, "row d_model"]
    factor: Float[Tensor, " row"]
    scale: Float[Tensor, " row"] | None  # None: a_max, each position's own (the authors' program takes the whole batch's)
    everywhere: bool

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        scale = None if self.scale is None else self.scale[rows]
        return replace(self, vector=self.vector[rows], factor=self.factor[rows], scale=scale)

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        first = 0 if self.everywhere else max(0, prompt_length - 1 - start)  # place of the first position that is steered

        def change(value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
            if not first:
                return self._added(value, read)
            return torch.cat([value[:, :first], self._added(value[:, first:], read[:, first:])], dim=1)

        return steered(lm, self.site, change)

    def _added(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        if self.scale is None:
            scale = largest_code(self.sae, read.flatten(0, 1)).reshape(read.shape[:2])
        else:
            scale = self.scale[:, None].expand(value.shape[:2])
        return amplify(value, self.vector[:, None], self.factor[:, None], scale)


def _additions(interventions: Sequence[Addition], which: Tensor, factor: Tensor, sae: Sae, site: Site) -> _Additions:
    scales = [one.scale for one in interventions if one.scale is not None]
    scale = torch.tensor(scales, dtype=factor.dtype, device=factor.device)[which] if scales else None
    vector = torch.stack([one.vector for one in interventions]).to(factor)[which]
    return _Additions(sae, site, vector, factor, scale, interventions[0].positions == "all")


@dataclass(frozen=True)
class _CodeEdits:
    """Features' codes set, in float32 also of a narrower SAE, as `encode` reads them."""

    sae: Sae
    site: Site
    features: Int[Tensor, "row k"]
    encoder: Float[Tensor, "row k d_model"]
    bias: Float[Tensor, "row k"]
    threshold: Float[Tensor, "row k"]
    decoder: Float[Tensor, "row k d_model"]
    values: Float[Tensor, "row k"]
    given: Float[Tensor, "row k"]  # 0.0 where a row has fewer features than others

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        tensors = ("features", "encoder", "bias", "threshold", "decoder", "values", "given")
        return replace(self, **{name: getattr(self, name)[rows] for name in tensors})

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return steered(lm, self.site, self._edited)

    def _edited(self, value: Float[Tensor, "row seq width"], read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq width"]:
        change = (self.values[:, None] - self._codes(read)) * self.given[:, None]  # [row seq k]
        written = change * written_size(self.sae.meta, read)[:, :, None]
        return value + torch.einsum("rsk,rkd->rsd", written, self.decoder).to(value.dtype)

    def _codes(self, read: Float[Tensor, "row seq d_read"]) -> Float[Tensor, "row seq k"]:
        if self.sae.meta.k is not None:  # which codes are kept depends on all of them
            return encode(self.sae, read).gather(2, self.features[:, None].expand(*read.shape[:2], -1))
        rows = encoder_input(self.sae, read).to(self.encoder)
        pre = torch.einsum("rsd,rkd->rsk", rows, self.encoder) + self.bias[:, None]
        return pre.masked_fill(pre <= self.threshold[:, None], 0)


def _code_edits(interventions: Sequence[CodeEdit], which: Tensor, factor: Tensor, sae: Sae, site: Site) -> _CodeEdits:
    def stacked(parts: Sequence[Tensor]) -> Tensor:  # [row k], short ones filled with 0
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True)[which]

    values = stacked([one.values.to(factor) for one in interventions]) * factor[:, None]
    given = stacked([torch.ones_like(one.values).to(factor) for one in interventions])
    features = stacked([one.features.to(factor.device) for one in interventions])
    encoder, bias, threshold, decoder = (part[features].to(factor) for part in (sae.W_enc.T, sae.b_enc, sae.threshold, sae.W_dec))
    return _CodeEdits(sae, site, features, encoder, bias, threshold, decoder, values, given)


@dataclass(frozen=True)
class _Adapters:
    """Rows under adapters of their own: their tensors are [layer row ...]."""

    adapters: LowRankWeights | LowRankSubspace
    factor: Float[Tensor, " row"]

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        own = {name: tensor[:, rows] for name, tensor in tensors_of(self.adapters).items()}
        return _Adapters(replace(self.adapters, **own), self.factor[rows])

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        if isinstance(self.adapters, LowRankWeights):
            return low_rank_weights_installed(lm, self.adapters, self.factor)
        return low_rank_subspace_installed(lm, self.adapters, self.factor, start, prompt_length)


def _adapters(interventions: Sequence[LowRankWeights | LowRankSubspace], which: Tensor, factor: Tensor) -> _Adapters:
    every = [tensors_of(one) for one in interventions]
    rows = {name: torch.stack([tensors[name].to(factor.device) for tensors in every], dim=1)[:, which] for name in every[0]}
    return _Adapters(replace(interventions[0], **rows), factor)


@dataclass(frozen=True)
class _Weights:
    """Rows under one model's changed weights."""

    weights: Mapping[str, Tensor]

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        return self

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return weights_installed(lm, self.weights)
