"""Interventions as they act on a running model: one strength a row, installed for one forward and always removed.

Rows that are steered together share a kind. Additions and code edits differ from row to row; adapters and fine-tuned weights belong to one
intervention, and only their strength differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.engine.adapters import low_rank_subspace_installed, low_rank_weights_installed, weights_installed
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


def together(interventions: Sequence[Intervention]) -> list[list[int]]:
    """Which interventions can steer rows of one batch: places in groups, in order of their first member."""
    groups: dict[object, list[int]] = {}
    for place, one in enumerate(interventions):
        of_many = isinstance(one, Addition | CodeEdit | Nothing | PromptText)
        groups.setdefault(type(one) if of_many else place, []).append(place)
    return list(groups.values())


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
    sae: Sae
    depth: int
    vector: Float[Tensor, "row d_model"]
    strength: Float[Tensor, " row"]  # factor * scale; where a_max is the scale, the factor
    by_a_max: Float[Tensor, " row"]  # 1.0 where a_max is the scale
    everywhere: Float[Tensor, " row"]  # 1.0: at every position; 0.0: at the last one

    def take(self, rows: Int[Tensor, " kept"]) -> Steering:
        taken = {name: getattr(self, name)[rows] for name in ("vector", "strength", "by_a_max", "everywhere")}
        return replace(self, **taken)

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return residual_changed(lm, self.depth, lambda residual: self._added(residual, start, prompt_length))

    def _added(self, residual: Float[Tensor, "row seq d_model"], start: int, prompt_length: int) -> Float[Tensor, "row seq d_model"]:
        strength = self.strength[:, None].expand(residual.shape[:2])
        if bool(self.by_a_max.any()):
            a_max = largest_code(self.sae, residual.flatten(0, 1)).reshape(residual.shape[:2])
            strength = torch.where(self.by_a_max[:, None] > 0, strength * a_max, strength)
        position = torch.arange(start, start + residual.shape[1], device=residual.device)
        from_the_last = (position >= prompt_length - 1).to(strength.dtype)  # [seq]; from there on every position is a forward's last
        strength = strength * torch.maximum(self.everywhere[:, None], from_the_last)
        return residual + (strength[:, :, None] * self.vector[:, None]).to(residual.dtype)


def _additions(interventions: Sequence[Addition], which: Tensor, factor: Tensor, sae: Sae, depth: int) -> _Additions:
    def of_each(values: Sequence[float]) -> Float[Tensor, " row"]:
        return torch.tensor(list(values), dtype=factor.dtype, device=factor.device)[which]

    return _Additions(
        sae,
        depth,
        torch.stack([one.vector for one in interventions]).to(factor)[which],
        factor * of_each([1.0 if one.scale is None else one.scale for one in interventions]),
        of_each([float(one.scale is None) for one in interventions]),
        of_each([float(one.positions == "all") for one in interventions]),
    )


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
