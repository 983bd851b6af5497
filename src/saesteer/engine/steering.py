"""Interventions as they act on a running model: one factor a row, installed for one forward and always removed.

Rows that are steered together share a kind. Additions and code edits differ from row to row; adapters and fine-tuned weights belong to one
intervention, and only their factor differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.engine.adapters import low_rank_subspace_installed, low_rank_weights_installed, weights_installed
from saesteer.engine.amplify import amplify
from saesteer.engine.continuation import Steering
from saesteer.engine.interventions import (
    Addition,
    CodeEdit,
    Intervention,
    LowRankSubspace,
    LowRankWeights,
    Nothing,
    PromptText,
    WeightChange,
)
from saesteer.engine.models import LanguageModel, residual_changed
from saesteer.engine.saes import Sae, encoder_input, largest_code

ALGORITHM_VERSION = 1


def together(interventions: Sequence[Intervention]) -> list[list[int]]:
    """Which interventions can steer rows of one batch: places in groups, in order of their first member."""
    groups: dict[object, list[int]] = {}
    for place, one in enumerate(interventions):
        groups.setdefault(_kind(place, one), []).append(place)
    return list(groups.values())


def _kind(place: int, one: Intervention) -> object:
    if isinstance(one, Addition):
        return Addition, one.positions, one.scale is None
    return type(one) if isinstance(one, CodeEdit | Nothing | PromptText) else place


def changes_prompt(intervention: Intervention) -> bool:
    """Whether keys and values of the prompt, its last token's aside, differ from the unsteered model's."""
    return not (isinstance(intervention, Nothing | PromptText) or (isinstance(intervention, Addition) and intervention.positions == "last"))


def steering_of(
    interventions: Sequence[Intervention], which: Int[Tensor, " row"], factor: Float[Tensor, " row"], sae: Sae, depth: int
) -> Steering:
    """The steering of rows, each by one of the interventions (all of one group of `together`) at its own factor."""
    first = interventions[0]
    if isinstance(first, Nothing | PromptText):
        return _Unsteered()
    if isinstance(first, Addition):
        return _additions([one for one in interventions if isinstance(one, Addition)], which, factor, sae, depth)
    if isinstance(first, CodeEdit):
        return _code_edits([one for one in interventions if isinstance(one, CodeEdit)], which, factor, sae, depth)
    return _Adapted(first, factor)


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
    depth: int
    vector: Float[Tensor, "row d_model"]
    factor: Float[Tensor, " row"]
    scale: Float[Tensor, " row"] | None  # None: a_max, each position's own (the authors' program takes the whole batch's)
    everywhere: bool

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        scale = None if self.scale is None else self.scale[rows]
        return replace(self, vector=self.vector[rows], factor=self.factor[rows], scale=scale)

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        first = 0 if self.everywhere else max(0, prompt_length - 1 - start)  # place of the first position that is steered

        def change(residual: Float[Tensor, "row seq d_model"]) -> Float[Tensor, "row seq d_model"]:
            return torch.cat([residual[:, :first], self._added(residual[:, first:])], dim=1) if first else self._added(residual)

        return residual_changed(lm, self.depth, change)

    def _added(self, residual: Float[Tensor, "row seq d_model"]) -> Float[Tensor, "row seq d_model"]:
        if self.scale is None:
            scale = largest_code(self.sae, residual.flatten(0, 1)).reshape(residual.shape[:2])
        else:
            scale = self.scale[:, None].expand(residual.shape[:2])
        return amplify(residual, self.vector[:, None], self.factor[:, None], scale)


def _additions(interventions: Sequence[Addition], which: Tensor, factor: Tensor, sae: Sae, depth: int) -> _Additions:
    scales = [one.scale for one in interventions if one.scale is not None]
    scale = torch.tensor(scales, dtype=factor.dtype, device=factor.device)[which] if scales else None
    vector = torch.stack([one.vector for one in interventions]).to(factor)[which]
    return _Additions(sae, depth, vector, factor, scale, interventions[0].positions == "all")


@dataclass(frozen=True)
class _CodeEdits:
    sae: Sae
    depth: int
    features: Int[Tensor, "row k"]
    values: Float[Tensor, "row k"]
    given: Float[Tensor, "row k"]  # 0.0 where a row has fewer features than others

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        return replace(self, **{name: getattr(self, name)[rows] for name in ("features", "values", "given")})

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return residual_changed(lm, self.depth, self._edited)

    def _edited(self, residual: Float[Tensor, "row seq d_model"]) -> Float[Tensor, "row seq d_model"]:
        sae, rows = self.sae, encoder_input(self.sae, residual)
        encoder = sae.W_enc.T[self.features]  # [row k d_model]
        pre = torch.einsum("rsd,rkd->rsk", rows, encoder) + sae.b_enc[self.features][:, None]
        codes = pre.masked_fill(pre <= sae.threshold[self.features][:, None], 0)
        change = (self.values[:, None] - codes) * self.given[:, None]  # [row seq k]
        return residual + torch.einsum("rsk,rkd->rsd", change, sae.W_dec[self.features]).to(residual.dtype)


def _code_edits(interventions: Sequence[CodeEdit], which: Tensor, factor: Tensor, sae: Sae, depth: int) -> _CodeEdits:
    def stacked(parts: Sequence[Tensor]) -> Tensor:  # [row k], short ones filled with 0
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True)[which]

    values = stacked([one.values.to(factor) for one in interventions]) * factor[:, None]
    given = stacked([torch.ones_like(one.values).to(factor) for one in interventions])
    return _CodeEdits(sae, depth, stacked([one.features.to(factor.device) for one in interventions]), values, given)


@dataclass(frozen=True)
class _Adapted:
    """Rows under one adapter."""

    intervention: LowRankWeights | LowRankSubspace | WeightChange
    factor: Float[Tensor, " row"]

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        return replace(self, factor=self.factor[rows])

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        one = self.intervention
        if isinstance(one, LowRankWeights):
            return low_rank_weights_installed(lm, one, self.factor)
        if isinstance(one, LowRankSubspace):
            return low_rank_subspace_installed(lm, one, self.factor, start, prompt_length)
        return weights_installed(lm, one, self.factor)
