"""What layers of linear attention keep of a prompt: a state of its convolution and one of its recurrence, of one size whatever the prompt's
length. Beside the layers of keys and values in one cache they go by the same names: `keys` is the convolution's, `values` the other.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin, LinearAttentionLayer

ALGORITHM_VERSION = 1


class RowStates(LinearAttentionLayer):
    """The states of a fixed set of rows."""

    @property
    def keys(self) -> Tensor | None:
        """[row channel kernel]"""
        return self.conv_states[0]

    @keys.setter
    def keys(self, states: Tensor | None) -> None:
        self.conv_states[0] = states

    @property
    def values(self) -> Tensor | None:
        """[row ...]; of a family without a recurrence, no numbers: [row 0]."""
        recurrent: Tensor | None = self.recurrent_states[0]
        return recurrent if recurrent is not None or self.keys is None else self.keys.new_empty(len(self.keys), 0)

    @values.setter
    def values(self, states: Tensor | None) -> None:
        self.recurrent_states[0] = states

    def update(self, keys: Tensor, values: Tensor) -> None:
        """Take over states that a prompt left."""
        recurrent = values if values.numel() else None
        self.lazy_initialization(keys, recurrent)
        self.keys, self.values, self.has_previous_state[0] = keys, recurrent, True

    def holding(self, keys: Tensor, values: Tensor) -> RowStates:
        """A layer for other rows."""
        layer = RowStates()
        layer.update(keys, values)
        return layer


class SharedStates(LinearAttentionCacheLayerMixin):
    """The states that one prompt left, for all of `n_rows` rows. What a forward makes of them is not kept."""

    def __init__(self, keys: Tensor, values: Tensor, n_rows: int) -> None:
        self.keys, self.values, self.n_rows = keys, values, n_rows  # of one row, never written
        self.number_of_states, self.has_previous_state, self.record_past = 1, {0: True}, False

    @property
    def conv_states(self) -> dict[int, Tensor]:
        """A copy each time, because a step may write into it."""
        return {0: self.keys.repeat_interleave(self.n_rows, dim=0)}

    @property
    def recurrent_states(self) -> dict[int, Tensor | None]:
        """A copy each time, because a step may write into it."""
        return {0: self.values.repeat_interleave(self.n_rows, dim=0) if self.values.numel() else None}

    def lazy_initialization(self, *_args: Any, **_kwargs: Any) -> None:
        """There is nothing to make room for."""

    def update_conv_state(self, conv_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        raise NotImplementedError("a shared prompt is gone on with by one token only, which reads the states and writes none")

    def update_recurrent_state(self, recurrent_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return recurrent_states
