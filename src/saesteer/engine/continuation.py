"""Continuing many rows at once, each as if it ran alone: one forward a step for all of them, one token a row, until each has ended.

Rows that have finished are dropped as the batch thins out. What steers them is given (`BatchSteering`).

On a CPU in float32 a row's tokens are the same in any company: a batch is one forward of any size from `MIN_ROWS`, of prompts of one length
without padding or mask, or in some families of several, which attend apart (engine.attention). Elsewhere kernels depend on shapes, so every
forward has `TILE` rows: a batch is several tiles, dropping rows means fewer tiles. There prompts of all lengths with one `buffer_length`
share a batch; their keys and values end at the same place, and what lies before a prompt is masked. So a row's tokens depend neither on the
batch nor on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from transformers.cache_utils import Cache

from saesteer.engine.cache import RowLayer, taken
from saesteer.engine.conversation import rendered
from saesteer.engine.head import soft_capped, unchecked_logits
from saesteer.engine.linear_attention import RowStates
from saesteer.engine.memory import forward_bytes
from saesteer.engine.models import MIN_ROWS, LanguageModel, shape_matters
from saesteer.engine.sampling import NOTHING, sample_tokens
from saesteer.settings.base import check_temperature

ALGORITHM_VERSION = 2

COMPACT_BELOW = 0.75
"""Finished rows are dropped when fewer than this share of a batch still run."""

MOST_ROWS = (256, 4096)
"""Largest batch on a CPU and on a GPU."""

TILE = (64, 512)
"""Rows of every forward where shapes matter, on a CPU and on a GPU. Under fine-tuned weights, which few rows share, it is `MIN_ROWS`."""

TILE_OF_SHORT, SHORT = 2048, 16
"""Rows of a forward on a GPU of prompts that take up to `SHORT` places in the caches, as the beginnings of sentences do that a sweep goes
on with: on an H100 launching Gemma-2-2B's kernels takes as long as 2,048 such rows do, and as 512 of a chat's (docs/performance.md)."""

SHORTEST_BUFFER = (8, 64)
"""Prompts up to this length share forwards where shapes matter; the second under fine-tuned weights, whose forwards take the time to read
the weights, however few their rows."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and when a text ends."""

    max_new_tokens: int = 20
    temperature: float = 0.7  # 0.0: the likeliest token
    top_k: int = 50  # 0: the whole vocabulary
    stop: str = "."  # a text ends after the first token that contains this character; "": only where the model ends it
    top_p: float = 1.0  # of the top_k, the likeliest with this probability together; 1: all

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.max_new_tokens < 1 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"max_new_tokens must be at least 1, top_k at least 0, top_p in (0, 1]; got {self}")
        if len(self.stop) > 1:
            raise ValueError(f"stop is {self.stop!r}, but must be one character or empty: only then can it be looked up token by token")


@runtime_checkable
class BatchSteering(Protocol):
    """How some rows are steered."""

    def take(self, rows: Int[Tensor, " chosen"]) -> BatchSteering:
        """The steering of some of the rows, in the given order."""
        ...

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        """Within the context, a forward of the rows [row seq] whose first token has position `start` is steered; every row's prompt has
        `prompt_length` tokens."""
        ...


@dataclass(frozen=True)
class Slots:
    """The rows that a step runs, in one tile (a forward) or several equal ones: slot i holds row `row[i]` of the chunk; padding and
    finished rows are slots that do not run."""

    row: Int[np.ndarray, " slot"]
    running: Bool[np.ndarray, " slot"]
    numbers: Float64[Tensor, "slot step"]  # each slot's own, uniform random, for every step
    token: Int[Tensor, " slot"]  # to feed next
    steering: BatchSteering  # of the slots
    caches: list[Cache]  # one a tile
    place: int  # of `token` in the caches
    before: Int[Tensor, " slot"] | None  # places before the prompt; None: none, in any slot

    def tiles(self) -> Iterator[Slots]:
        """Each tile by itself."""
        size = len(self.row) // len(self.caches)
        for number, cache in enumerate(self.caches):
            part = slice(number * size, (number + 1) * size)
            steering = self.steering
            if len(self.caches) > 1:
                steering = steering.take(torch.arange(part.start, part.stop, device=self.token.device))
            before = None if self.before is None else self.before[part]
            yield Slots(self.row[part], self.running[part], self.numbers[part], self.token[part], steering, [cache], self.place, before)


def full_tile(device: torch.device, length: int) -> int:
    """Rows of a forward where shapes matter, of prompts that take `length` places in the caches."""
    if device.type != "cuda":
        return TILE[0]
    return TILE_OF_SHORT if length <= SHORT else TILE[1]


def tile_rows(lm: LanguageModel, size: int, full: int) -> int | None:
    """Rows of every forward of a batch of `size`: None where any number gives the same; else `full`, fewer only where memory does not hold
    as many."""
    return min(full, size) if shape_matters(lm) else None


def buffer_length(lm: LanguageModel, n_prompt: int, n_new: int, shortest: int = SHORTEST_BUFFER[0]) -> int:
    """Places that a prompt of `n_prompt` tokens takes in the caches: as many where any shape gives the same; else the next power of two,
    as far as the model has positions, a function of nothing but the prompt's own length."""
    if not shape_matters(lm) or n_prompt == 1:
        return n_prompt
    return max(n_prompt, min(max(shortest, 2 ** (n_prompt - 1).bit_length()), lm.n_positions - n_new))


def step_bytes(lm: LanguageModel, capacity: int, device: torch.device) -> int:
    """About the bytes of a row's step with this many positions in its cache: its forward, which on a GPU copies nothing of the cache
    (engine.attention), or, after it, two copies of its logits."""
    return max(forward_bytes(lm, 1, 0 if device.type == "cuda" else capacity), 8 * lm.n_vocab)


def padded_index(index: Int[np.ndarray, " row"], tile: int | None, least: int = MIN_ROWS) -> Int[np.ndarray, " slot"]:
    """An index of whole tiles or, where there are none, of at least `least` entries, the first repeated."""
    n_slots = max(least, len(index)) if tile is None else -(-len(index) // tile) * tile
    return np.concatenate([index, np.repeat(index[:1], n_slots - len(index))])


@dataclass(frozen=True)
class Continued:
    """What rows have been continued with, up to the step that was taken last."""

    token_ids: Int[np.ndarray, "row step"]
    lengths: Int[np.ndarray, " row"]  # how many of them count
    stopped: Bool[np.ndarray, " row"]  # ended by the text, not by the limit
    failed: Bool[np.ndarray, " row"]  # at a step whose logits are not finite: what there is then is no text


def continued_steps(
    lm: LanguageModel, slots: Slots, n_rows: int, sampling: Sampling, ending: Bool[np.ndarray, " vocab"]
) -> Iterator[Continued]:
    """Continued rows token by token: what there is after each step, in arrays that the next step goes on to fill. The host waits for the
    device once a step, for the tokens."""
    token_ids = np.zeros((n_rows, sampling.max_new_tokens), dtype=np.int64)
    lengths = np.zeros(n_rows, dtype=np.int64)
    stopped, failed = np.zeros((2, n_rows), dtype=bool)
    tile = len(slots.row) // len(slots.caches) if shape_matters(lm) else None
    prompt_length = slots.place + 1
    for step in range(sampling.max_new_tokens):
        tokens = torch.cat([_next_tokens(lm, part, step, sampling, prompt_length) for part in slots.tiles()])
        drawn = tokens.cpu().numpy()
        lost = (drawn == NOTHING) & slots.running
        ended = ending[drawn] & slots.running & ~lost
        rows = slots.row[slots.running]
        token_ids[rows, step] = drawn[slots.running]
        lengths[rows] = step + 1
        stopped[slots.row[ended]] = True
        failed[slots.row[lost]] = True
        yield Continued(token_ids, lengths, stopped, failed)
        going_on = slots.running & ~ended & ~lost
        if not going_on.any():
            break
        slots = _advanced(slots, tokens.clamp(min=0), going_on, tile)


def _next_tokens(lm: LanguageModel, tile: Slots, step: int, sampling: Sampling, prompt_length: int) -> Int[Tensor, " slot"]:
    """One step of a tile. A function, so that its logits are let go before the next tile's are made."""
    logits = step_logits(lm, tile, prompt_length)
    return sample_tokens(logits, tile.numbers[:, step], sampling.temperature, sampling.top_k, sampling.top_p)


def step_logits(lm: LanguageModel, tile: Slots, prompt_length: int) -> Float[Tensor, "slot vocab"]:
    """Feed each slot of one tile its token, through the steered model; the next token's logits, soft-capped where the model does so."""
    position_ids, mask = torch.full((1, 1), tile.place, device=lm.device), None
    if tile.before is not None:
        mask = (torch.arange(tile.place + 1, device=lm.device) >= tile.before[:, None]).long()  # [slot place]
        position_ids = position_ids - tile.before[:, None]
    with tile.steering.installed(lm, tile.place, prompt_length):
        output = lm.model.base_model(
            input_ids=tile.token[:, None],
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=tile.caches[0],
            use_cache=True,
        )
        return soft_capped(lm, unchecked_logits(lm, output.last_hidden_state[:, -1]))


def _advanced(slots: Slots, tokens: Int[Tensor, " slot"], running: Bool[np.ndarray, " slot"], tile: int | None) -> Slots:
    """The next step's slots, without the finished ones when these have become many: a share of the rows, or enough for fewer tiles."""
    index = np.flatnonzero(running)
    packed = padded_index(index, tile)
    few = len(packed) < len(running) and (tile is not None or len(index) < COMPACT_BELOW * len(running))
    if not few:
        return replace(slots, running=running, token=tokens, place=slots.place + 1)
    places = torch.from_numpy(packed).to(tokens.device, non_blocking=True)
    return Slots(
        row=slots.row[packed],
        running=np.arange(len(places)) < len(index),
        numbers=slots.numbers[places],
        token=tokens[places],
        steering=slots.steering.take(places),
        caches=_repacked(slots.caches, places, tile or len(places)),
        place=slots.place + 1,
        before=None if slots.before is None else slots.before[places],
    )


def _repacked(caches: list[Cache], slots: Int[Tensor, " slot"], tile: int) -> list[Cache]:
    """The caches of these slots, in tiles; the old ones are emptied on the way, so that both never exist whole."""
    packed: list[list[RowLayer | RowStates]] = [[] for _ in slots.split(tile)]
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        keys, values = (
            torch.cat(states) if len(states) > 1 else states[0] for states in zip(*(taken(layer) for layer in layers), strict=True)
        )
        for new, rows in zip(packed, slots.to(keys.device).split(tile), strict=True):  # on the block's GPU, of several
            new.append(layers[0].holding(keys[rows], values[rows]))
    return [Cache(layers=new) for new in packed]


def ending_tokens(lm: LanguageModel, stop: str) -> Bool[np.ndarray, " vocab"]:
    """Which tokens end a text: those whose own text contains the stop character, and those with which the model ends one."""
    ending = _tokens_with(lm.tokenizer, stop, lm.n_vocab).copy()
    ending[final_ids(lm)] = True
    return ending


@lru_cache(maxsize=8)
def _tokens_with(tokenizer: Any, stop: str, n_vocab: int) -> Bool[np.ndarray, " vocab"]:
    """Which tokens' own text contains the character; none where it is empty. To decode a large vocabulary takes a second, which a server
    would take for every request."""
    ending = np.zeros(n_vocab, dtype=bool)
    if stop:
        n_tokens = min(len(tokenizer), n_vocab)
        ending[:n_tokens] = [stop in text for text in _decoded(tokenizer, [[token] for token in range(n_tokens)])]
    return ending


def continuation_texts(lm: LanguageModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[str]:
    """Each continuation as text, without the token that ends it and other special tokens: prompt and continuation decoded together, so that
    spaces come out as in running text, and the prompt cut off."""
    final = set(final_ids(lm))  # not every tokenizer calls them special
    trimmed = [tokens[:-1] if tokens and tokens[-1] in final else tokens for tokens in continuations]
    together = _decoded(lm.tokenizer, [[*prompt, *tokens] for prompt, tokens in zip(prompts, trimmed, strict=True)])
    alone = _decoded(lm.tokenizer, prompts)
    return [whole[len(prompt) :] for whole, prompt in zip(together, alone, strict=True)]


def _decoded(tokenizer: Any, ids: Sequence[Sequence[int]]) -> list[str]:
    decoded: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return decoded


def final_ids(lm: LanguageModel) -> list[int]:
    """The tokens with which the model ends a text: those of its generation config and, where it answers, the one that its chat template
    puts after an answer (some generation configs lack it, and the model would go on with a user's turn)."""
    eos = lm.model.generation_config.eos_token_id
    eos_ids = {token for token in (eos if isinstance(eos, list) else [eos]) if token is not None}
    if lm.prompt_format == "chat":
        answer = "answer"
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
        written = rendered(lm.tokenizer, lm.chat, turns, tokenize=False)
        following = lm.tokenizer(written.rpartition(answer)[2], add_special_tokens=False)["input_ids"]
        eos_ids |= set(following[:1]) & set(lm.tokenizer.added_tokens_decoder)  # a token of its own, not of the vocabulary proper
    return sorted(eos_ids)
