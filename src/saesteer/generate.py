"""Batched steered sampling: many (feature, factor, prefix, sample) rows at once, each as if it ran alone.

Rows whose prefixes have equally many tokens share a batch, so there is no padding and no mask; a prefix is run once and its cache gathered
by row; rows that have finished are dropped as the batch thins out. The steering is that of P1 (arXiv 2505.20063), section 3: `amplify` at
the last position of every forward, from the last prompt token on (of a chat prompt, the end of the generation prompt), with a_max per row
and step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from saesteer.counter_rng import hex_keys, text_keys, uniforms
from saesteer.models import (
    MIN_ROWS,
    LanguageModel,
    Prefill,
    check_length,
    depth_of,
    final_ids,
    prefill,
    prompt_token_ids,
    raw_logits,
    soft_capped,
)
from saesteer.saes import Sae, check_features
from saesteer.steering import amplified, last_position_edited
from saesteer.tables import GENERATIONS

ALGORITHM_VERSION = 1

COMPACT_BELOW = 0.75
"""Finished rows are dropped when fewer than this share of a batch still run."""

SCHEMA = pl.Schema(GENERATIONS.schema)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and when a text ends."""

    max_new_tokens: int = 20
    temperature: float = 0.7  # 0.0: the likeliest token
    top_k: int = 50  # 0: the whole vocabulary
    stop: str = "."  # a text ends after the first token that contains this character; "": only where the model ends it

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or self.top_k < 0:
            raise ValueError(f"max_new_tokens must be at least 1, temperature and top_k at least 0; got {self}")
        if len(self.stop) > 1:
            raise ValueError(f"stop is {self.stop!r}, but must be one character or empty: only then can it be looked up token by token")


@torch.no_grad()
def steered_sweep(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    prefixes: Mapping[str, str],
    sampling: Sampling,
    seed: int,
    batch: int = 512,
) -> Iterator[pl.DataFrame]:
    """Continue each row's prefix while steering with its feature and factor; yield finished tables of up to `batch` rows.

    `rows` has feature, factor (decimal string, multiples of a_max), prefix_id (16 hexadecimal digits) and sample; `prefixes` maps prefix_id
    to text, which becomes a prompt in the model's format. A row's tokens depend on its own keys, the seed and the model only. `token_ids`
    and `n_tokens` include the token that stopped the text (stop character or end of sequence); `text` is the continuation alone: without
    the prefix or, for a model that answers, the response.
    """
    depth = depth_of(lm, layer, sae.meta.site)
    check_features(rows["feature"].unique().to_list(), sae.meta.n_features, f"the SAE of layer {layer}")
    prompts = _prompts(lm, rows, prefixes)
    check_length(lm, max(map(len, prompts.values()), default=0) + sampling.max_new_tokens)
    ending = ending_tokens(lm, sampling.stop)
    runs = {name: prefill(lm, ids) for name, ids in prompts.items()}
    for chunk in _chunks(rows, {name: len(ids) for name, ids in prompts.items()}, batch):
        numbers = _uniforms(chunk, layer, sampling.max_new_tokens, seed)
        slots = _start(lm, sae, chunk, runs, sampling.max_new_tokens)
        token_ids, lengths, stopped = _continue(lm, sae, depth, slots, numbers, sampling, ending)
        continuations = [ids[:length] for ids, length in zip(token_ids.tolist(), lengths.tolist(), strict=True)]
        texts = continuation_texts(lm, [prompts[name] for name in chunk["prefix_id"]], continuations)
        yield _table(chunk, layer, continuations, texts, stopped)


def _prompts(lm: LanguageModel, rows: pl.DataFrame, prefixes: Mapping[str, str]) -> dict[str, list[int]]:
    """Token ids of the prefixes that rows name."""
    names = rows["prefix_id"].unique(maintain_order=True).to_list()
    unknown = [name for name in names if name not in prefixes]
    if unknown:
        raise ValueError(f"prefix_id {unknown[0]} has no text: the prefixes given are {', '.join(prefixes)}")
    return {name: prompt_token_ids(lm, prefixes[name]) for name in names}


def ending_tokens(lm: LanguageModel, stop: str) -> Bool[Tensor, " vocab"]:
    """Which tokens end a text: those whose own text contains the stop character, and those with which the model ends one."""
    ending = torch.zeros(lm.n_vocab, dtype=torch.bool)
    if stop:
        known = min(len(lm.tokenizer), lm.n_vocab)
        texts = _decoded(lm, [[token] for token in range(known)])
        ending[:known] = torch.tensor([stop in text for text in texts])
    ending[final_ids(lm)] = True
    return ending.to(lm.device)


def _chunks(rows: pl.DataFrame, prompt_length: Mapping[str, int], batch: int) -> Iterator[pl.DataFrame]:
    """Rows of one prompt length at a time, in the given order, up to `batch` together."""
    lengths = rows["prefix_id"].replace_strict(dict(prompt_length), return_dtype=pl.Int64) if len(rows) else pl.Series([], dtype=pl.Int64)
    for length in sorted(lengths.unique()):
        yield from rows.filter(lengths == length).iter_slices(batch)


def _uniforms(chunk: pl.DataFrame, layer: int, n_steps: int, seed: int) -> Float64[np.ndarray, "row step"]:
    """One uniform number per row and step, from the row's keys."""
    keys = (
        chunk["feature"].to_numpy(),
        text_keys(chunk["factor"]),
        hex_keys(chunk["prefix_id"]),
        chunk["sample"].to_numpy(),
    )
    return uniforms(seed, layer, *(key[:, None] for key in keys), step=np.arange(n_steps)[None])


class _RowLayer(DynamicLayer):
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

    def selected(self, kept: Int[Tensor, " row"]) -> _RowLayer:
        """The same layer for some of the rows."""
        layer = _RowLayer(self.capacity)
        layer.keys, layer.values = self.keys[kept], self.values[kept]
        layer.length, layer.is_initialized = self.length, True
        return layer


@dataclass(frozen=True)
class _Slots:
    """The rows that a forward runs: slot i holds row `row[i]` of the chunk; padding and finished rows are slots that do not run."""

    row: Int[np.ndarray, " slot"]
    running: Bool[np.ndarray, " slot"]
    token: Int[Tensor, " slot"]  # to feed next
    factor: Float[Tensor, " slot"]
    direction: Float[Tensor, "slot d_model"]
    cache: Cache
    position: int  # of `token`


def _start(lm: LanguageModel, sae: Sae, chunk: pl.DataFrame, runs: Mapping[str, Prefill], n_steps: int) -> _Slots:
    """Every row of a chunk at its prefix's last token, with the prefix's cache gathered by row."""
    names = list(dict.fromkeys(chunk["prefix_id"]))
    row = _padded(np.arange(len(chunk)))
    prefix = torch.tensor([names.index(name) for name in chunk["prefix_id"]], device=lm.device)[torch.from_numpy(row).to(lm.device)]
    prompts = [runs[name] for name in names]
    layers = [_RowLayer(prompts[0].position + n_steps) for _ in lm.blocks]
    for number, layer in enumerate(layers if prompts[0].position else []):
        layer.update(*(torch.cat([getattr(prompt, part)[number] for prompt in prompts])[prefix] for part in ("keys", "values")))
    slot = torch.from_numpy(row).to(lm.device)
    return _Slots(
        row=row,
        running=np.arange(len(row)) < len(chunk),
        token=torch.tensor([prompt.last_token for prompt in prompts], device=lm.device)[prefix],
        factor=torch.tensor([float(factor) for factor in chunk["factor"]], dtype=sae.W_dec.dtype, device=lm.device)[slot],
        direction=sae.W_dec[torch.tensor(chunk["feature"].to_list(), device=lm.device)[slot]],
        cache=Cache(layers=layers),
        position=prompts[0].position,
    )


def _padded(index: Int[np.ndarray, " row"]) -> Int[np.ndarray, " slot"]:
    """An index of at least `MIN_ROWS` entries, the first repeated."""
    return np.concatenate([index, np.repeat(index[:1], max(0, MIN_ROWS - len(index)))])


def _continue(
    lm: LanguageModel,
    sae: Sae,
    depth: int,
    slots: _Slots,
    numbers: Float64[np.ndarray, "row step"],
    sampling: Sampling,
    ending: Bool[Tensor, " vocab"],
) -> tuple[Int[np.ndarray, "row step"], Int[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Sample until every row has ended: token ids, how many of them count, and whether the row was stopped rather than cut at the limit."""
    token_ids = np.zeros(numbers.shape, dtype=np.int64)
    lengths = np.zeros(len(numbers), dtype=np.int64)
    stopped = np.zeros(len(numbers), dtype=bool)
    for step in range(sampling.max_new_tokens):
        logits = _step_logits(lm, sae, depth, slots)
        tokens = sample_tokens(logits, torch.from_numpy(numbers[slots.row, step]).to(lm.device), sampling.temperature, sampling.top_k)
        ended = ending[tokens].cpu().numpy() & slots.running
        rows = slots.row[slots.running]
        token_ids[rows, step] = tokens.cpu().numpy()[slots.running]
        lengths[rows] = step + 1
        stopped[slots.row[ended]] = True
        if np.array_equal(ended, slots.running):
            break
        slots = _advanced(slots, tokens, slots.running & ~ended)
    return token_ids, lengths, stopped


def _step_logits(lm: LanguageModel, sae: Sae, depth: int, slots: _Slots) -> Float[Tensor, "slot vocab"]:
    """Feed each slot's token through the steered model; the next token's logits, soft-capped where the model does so."""
    position_ids = torch.tensor([[slots.position]], device=lm.device)
    with last_position_edited(lm, depth, amplified(sae, slots.direction, slots.factor)):
        output = lm.model.base_model(input_ids=slots.token[:, None], position_ids=position_ids, past_key_values=slots.cache, use_cache=True)
    return soft_capped(lm, raw_logits(lm, output.last_hidden_state[:, -1]))


def _advanced(slots: _Slots, tokens: Int[Tensor, " slot"], running: Bool[np.ndarray, " slot"]) -> _Slots:
    """The next step's slots, without the finished ones when these have become many."""
    if len(running) == MIN_ROWS or running.sum() >= COMPACT_BELOW * len(running):
        return replace(slots, running=running, token=tokens, position=slots.position + 1)
    index = np.flatnonzero(running)
    kept = torch.from_numpy(_padded(index)).to(tokens.device)
    return _Slots(
        row=slots.row[_padded(index)],
        running=np.arange(len(kept)) < len(index),
        token=tokens[kept],
        factor=slots.factor[kept],
        direction=slots.direction[kept],
        cache=Cache(layers=[layer.selected(kept) for layer in slots.cache.layers]),
        position=slots.position + 1,
    )


def sample_tokens(
    logits: Float[Tensor, "row vocab"], numbers: Float64[Tensor, " row"], temperature: float, top_k: int
) -> Int[Tensor, " row"]:
    """One token a row from softmax(logits / temperature) over the top_k largest, by inverse CDF in token id order from the row's uniform
    number."""
    if temperature == 0:
        return logits.argmax(dim=1)
    if not 0 < top_k < logits.shape[1]:
        ids = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
    else:
        ids = largest_ids(logits, top_k).sort(dim=1).values
    cumulative = torch.softmax(logits.gather(1, ids).double() / temperature, dim=1).cumsum(dim=1)
    place = (cumulative <= (numbers * cumulative[:, -1])[:, None]).sum(dim=1, keepdim=True)
    return ids.gather(1, place.clamp(max=ids.shape[1] - 1)).squeeze(1)


def largest_ids(logits: Float[Tensor, "row vocab"], k: int) -> Int[Tensor, "row k"]:
    """Ids of each row's k largest logits, in no particular order.

    The k largest lie in the k groups of tokens with the largest maxima, so only those are searched: a third of `topk`'s time at 2,000
    tokens.
    """
    size = max(1, math.isqrt(logits.shape[1] // k))
    n_groups = -(-logits.shape[1] // size)
    grouped = nn.functional.pad(logits, (0, n_groups * size - logits.shape[1]), value=-math.inf).unflatten(1, (n_groups, size))
    groups = grouped.amax(dim=2).topk(min(k, n_groups), dim=1, sorted=False).indices  # [row k]
    candidates = grouped.gather(1, groups[:, :, None].expand(-1, -1, size)).flatten(1)  # [row k*size]
    place = candidates.topk(k, dim=1, sorted=False).indices
    return groups.gather(1, place // size) * size + place % size


def continuation_texts(lm: LanguageModel, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[str]:
    """Each continuation as text, without the token that ends it and other special tokens: prompt and continuation decoded together, so that
    spaces come out as in running text, and the prompt cut off."""
    final = set(final_ids(lm))  # not every tokenizer calls them special
    said = [tokens[:-1] if tokens and tokens[-1] in final else tokens for tokens in continuations]
    together = _decoded(lm, [[*prompt, *tokens] for prompt, tokens in zip(prompts, said, strict=True)])
    alone = _decoded(lm, prompts)
    return [whole[len(prompt) :] for whole, prompt in zip(together, alone, strict=True)]


def _decoded(lm: LanguageModel, ids: Sequence[Sequence[int]]) -> list[str]:
    return lm.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _table(
    chunk: pl.DataFrame, layer: int, continuations: list[list[int]], texts: list[str], stopped: Bool[np.ndarray, " row"]
) -> pl.DataFrame:
    made = {
        "layer": pl.Series([layer] * len(chunk), dtype=pl.UInt16),
        "token_ids": pl.Series(continuations, dtype=pl.List(pl.UInt32)),
        "text": pl.Series(texts, dtype=pl.String),
        "n_tokens": pl.Series([len(tokens) for tokens in continuations], dtype=pl.UInt16),
        "stopped": pl.Series(stopped),
    }
    return chunk.with_columns(**made).select(pl.col(name).cast(dtype) for name, dtype in SCHEMA.items())
