"""Keys and values of many rows: in one buffer that grows in place, and of what rows begin with alike, run once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from saesteer.engine.linear_attention import RowStates
from saesteer.engine.models import LanguageModel, Prefill, prefills

ALGORITHM_VERSION = 2


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


def taken(layer: RowLayer | RowStates) -> tuple[Tensor, Tensor]:
    """A layer's keys and values, which it then no longer holds."""
    keys, values, layer.keys, layer.values = layer.keys, layer.values, None, None
    return keys, values


def row_layers(lm: LanguageModel, capacity: int) -> list[RowLayer | RowStates]:
    """Empty layers of the model's kinds, for a fixed set of rows."""
    return [RowStates() if linear else RowLayer(capacity) for linear in lm.structure.linear]


def gathered(
    lm: LanguageModel,
    layers: Iterable[Sequence[tuple[Tensor, Tensor]]],
    which: Int[Tensor, " row"],
    n_rows: int,
    length: int,
    room: int,
) -> list[Cache]:
    """Caches of `n_rows` rows each from runs' keys and values, layer by layer ([row kv_head position head_dim], of one length in a run;
    states of linear layers as they are), for the rows `which` of all runs. Each row's positions end at `length`, with zeros before the
    first, and there is room for this many more."""
    packed = [row_layers(lm, length + room) for _ in which.split(n_rows)]
    for number, of_runs in enumerate(layers):
        keys_and_values: list[list[Tensor]] = [[], []]
        for pair in of_runs:
            for states, state in zip(keys_and_values, pair, strict=True):
                before = 0 if lm.structure.linear[number] else length - state.shape[2]  # zeros
                states.append(nn.functional.pad(state, (0, 0, before, 0)) if before else state)
        keys, values = map(torch.cat, keys_and_values)
        for new, rows in zip(packed, which.to(keys.device).split(n_rows), strict=True):  # on the block's GPU, of several
            new[number].update(keys[rows], values[rows])
    return [Cache(layers=new) for new in packed]


MOST_PREFIXES = 256
"""Prefixes whose keys and values are held for later batches, at most."""


class Prefixes:
    """What rows begin with, run once without steering; the latest `MOST_PREFIXES` are used again."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm
        self.runs: dict[tuple[int, ...], Prefill] = {}

    def prefilled(self, beginnings: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Prefill]:
        """The run of each sequence of token ids, all of its tokens included; of equal ones once."""
        distinct = list(dict.fromkeys(beginnings))
        new = [ids for ids in distinct if ids not in self.runs]
        known = self.runs | dict(zip(new, prefills(self.lm, [[*ids, 0] for ids in new]), strict=True))  # the last token is not run
        wanted = {ids: known.pop(ids) for ids in distinct}
        self.runs = dict([*known.items(), *wanted.items()][-MOST_PREFIXES:])
        return wanted

    def caches(self, beginnings: Sequence[tuple[int, ...]], n_rows: int, length: int, room: int) -> list[Cache]:
        """Caches of `n_rows` rows each that begin with these token ids: they end at `length`, with room for this many more positions."""
        runs = self.prefilled(beginnings)
        numbers = {ids: number for number, ids in enumerate(runs)}
        which = torch.tensor([numbers[ids] for ids in beginnings], device=self.lm.device)
        if not length:
            return [Cache(layers=row_layers(self.lm, room)) for _ in which.split(n_rows)]
        layers = ([(run.keys[number], run.values[number]) for run in runs.values()] for number in range(self.lm.n_layers))
        return gathered(self.lm, layers, which, n_rows, length, room)
