"""Keys and values of many rows: in one buffer that grows in place, and of what rows begin with alike, run once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from saesteer.engine.linear_attention import RowStates
from saesteer.engine.models import LanguageModel, Prefill, prefills

ALGORITHM_VERSION = 1


class RowLayer(DynamicLayer):
    """A cache layer for a fixed set of rows, in one buffer with room for every step, so that adding a position copies nothing else."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.keys, self.values = (
                state.new_empty(*state.shape[:2], self.capacity, state.shape[3]) for state in (key_states, value_states)
            )
            self.is_initialized: bool = True
        start, self.length = self.length, self.length + key_states.shape[2]
        self.keys[:, :, start : self.length] = key_states  # [row kv_head position head_dim]
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def holding(self, keys: Tensor, values: Tensor) -> RowLayer:
        """A layer of the same length for other rows."""
        layer = RowLayer(self.capacity)
        layer.keys, layer.values = keys, values
        layer.length, layer.is_initialized = self.length, True
        return layer


def row_layers(lm: LanguageModel, capacity: int) -> list[RowLayer | RowStates]:
    """Empty layers of the model's kinds, for a fixed set of rows."""
    return [RowStates() if linear else RowLayer(capacity) for linear in lm.structure.linear]


class Prefixes:
    """The unsteered keys and values of what rows begin with; those of the batch before are used again, all others are let go."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.runs: dict[tuple[int, ...], Prefill] = {}

    def caches(self, beginnings: Sequence[tuple[int, ...]], n_rows: int, room: int) -> list[Cache]:
        """Caches of `n_rows` rows each that begin with these token ids, all of one length, with room for so many positions more."""
        distinct = {ids: number for number, ids in enumerate(dict.fromkeys(beginnings))}
        new = [ids for ids in distinct if ids not in self.runs]
        made = prefills(self.lm, [[*ids, 0] for ids in new])  # the last token is not run
        self.runs = {ids: run for ids, run in self.runs.items() if ids in distinct} | dict(zip(new, made, strict=True))
        runs = [self.runs[ids] for ids in distinct]
        which = torch.tensor([distinct[ids] for ids in beginnings], device=self.lm.device)
        return [self._gathered(runs, some, room) for some in which.split(n_rows)]

    def _gathered(self, runs: Sequence[Prefill], which: Int[Tensor, " row"], room: int) -> Cache:
        position = runs[0].position
        layers = row_layers(self.lm, position + room)
        for number, layer in enumerate(layers if position else []):
            states = (torch.cat([getattr(run, part)[number] for run in runs]) for part in ("keys", "values"))
            layer.update(*(state[which.to(state.device)] for state in states))  # on the block's GPU, of several
        return Cache(layers=layers)
