"""Batched steered sampling: many (feature, factor, prefix, sample) rows at once, each as if it ran alone.

Rows whose prefixes have equally many tokens share a batch, so there is no padding and no mask; a prefix is run once for all features and
factors, and its cache gathered by row; rows that have finished are dropped as the batch thins out. The steering is that of P1 (arXiv
2505.20063), section 3: `amplify` at the last position of every forward, from the last prompt token on (of a chat prompt, the end of the
generation prompt), with a_max per row and step.

On a CPU in float32 a row's tokens are the same in any company, so a batch is one forward of any size from `MIN_ROWS`. Elsewhere kernels
depend on shapes, so every forward has `TILE` rows: a batch is several tiles, dropping rows means fewer tiles, and a row's tokens depend
neither on the batch nor on its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from saesteer.counter_rng import hex_keys, text_keys, uniforms
from saesteer.head import raw_logits, soft_capped
from saesteer.memory import Halving, forward_bytes, rows_that_fit
from saesteer.models import (
    MIN_ROWS,
    LanguageModel,
    Prefill,
    check_length,
    depth_of,
    final_ids,
    prefills,
    prompt_token_ids,
    shape_matters,
)
from saesteer.saes import Sae, check_features
from saesteer.sampling import sample_tokens
from saesteer.steering import amplified, last_position_edited
from saesteer.tables import GENERATIONS

ALGORITHM_VERSION = 1

COMPACT_BELOW = 0.75
"""Finished rows are dropped when fewer than this share of a batch still run."""

MOST_ROWS = (512, 4096)
"""Largest batch on a CPU and on a GPU."""

TILE = (64, 1024)
"""Rows of every forward where shapes matter, on a CPU and on a GPU: enough there that launching kernels takes less time than they do."""

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
    batch: int | None = None,
) -> Iterator[pl.DataFrame]:
    """Continue each row's prefix while steering with its feature and factor; yield finished tables of up to `batch` rows, fewer when memory
    runs out; None: as many as fit.

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
    runs = dict(zip(prompts, prefills(lm, list(prompts.values())), strict=True))
    sweep = _Sweep(lm, sae, layer, depth, prompts, runs, sampling, seed, ending)
    halving = Halving("sweep", lm.device)
    for group in _groups(rows, {name: len(ids) for name, ids in prompts.items()}):

        def finished(part: slice, size: int, group: pl.DataFrame = group) -> pl.DataFrame:
            return _swept(sweep, group[part], _tile(lm, size, batch))

        run = runs[group["prefix_id"][0]]
        size = batch or rows_that_fit(_row_bytes(lm, run, run.position + sampling.max_new_tokens), lm.device, MOST_ROWS)
        yield from halving.over(group.height, size, finished)


@dataclass(frozen=True)
class _Sweep:
    """What all rows of a sweep share."""

    lm: LanguageModel
    sae: Sae
    layer: int
    depth: int
    prompts: dict[str, list[int]]  # by prefix_id
    runs: dict[str, Prefill]
    sampling: Sampling
    seed: int
    ending: Bool[Tensor, " vocab"]


def _swept(sweep: _Sweep, chunk: pl.DataFrame, tile: int | None) -> pl.DataFrame:
    """The generations of rows whose prompts have one length, together."""
    numbers = _uniforms(chunk, sweep.layer, sweep.sampling.max_new_tokens, sweep.seed)
    slots = _start(sweep.lm, sweep.sae, chunk, sweep.runs, sweep.sampling.max_new_tokens, tile)
    token_ids, lengths, stopped = _continue(sweep, slots, numbers, tile)
    continuations = [ids[:length] for ids, length in zip(token_ids.tolist(), lengths.tolist(), strict=True)]
    texts = continuation_texts(sweep.lm, [sweep.prompts[name] for name in chunk["prefix_id"]], continuations)
    return _table(chunk, sweep.layer, continuations, texts, stopped)


def _tile(lm: LanguageModel, size: int, asked: int | None) -> int | None:
    """Rows of every forward: None where any number gives the same; else `TILE`, fewer only where memory does not hold as many. A small
    batch that was asked for is padded."""
    full = TILE[lm.device.type == "cuda"]
    if not shape_matters(lm):
        return None
    return full if size == asked else min(full, size)


def _row_bytes(lm: LanguageModel, run: Prefill, capacity: int) -> int:
    """About the bytes that a row needs: its cache, its forward, and a few copies of its logits."""
    width = run.keys[0].shape[1] * run.keys[0].shape[3] if run.keys else lm.d_model
    cache = lm.n_layers * 2 * width * capacity * lm.dtype.itemsize
    return cache + forward_bytes(lm, 1, capacity) + 16 * lm.n_vocab


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


def _groups(rows: pl.DataFrame, prompt_length: Mapping[str, int]) -> Iterator[pl.DataFrame]:
    """Rows of one prompt length at a time, in the given order."""
    lengths = rows["prefix_id"].replace_strict(dict(prompt_length), return_dtype=pl.Int64) if len(rows) else pl.Series([], dtype=pl.Int64)
    for length in sorted(lengths.unique()):
        yield rows.filter(lengths == length)


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

    def holding(self, keys: Tensor, values: Tensor) -> _RowLayer:
        """A layer of the same length for other rows."""
        layer = _RowLayer(self.capacity)
        layer.keys, layer.values = keys, values
        layer.length, layer.is_initialized = self.length, True
        return layer


@dataclass(frozen=True)
class _Slots:
    """The rows that a step runs, in one tile (a forward) or several equal ones: slot i holds row `row[i]` of the chunk; padding and
    finished rows are slots that do not run."""

    row: Int[np.ndarray, " slot"]
    running: Bool[np.ndarray, " slot"]
    token: Int[Tensor, " slot"]  # to feed next
    factor: Float[Tensor, " slot"]
    direction: Float[Tensor, "slot d_model"]
    caches: list[Cache]  # one a tile
    position: int  # of `token`

    def tiles(self) -> Iterator[_Slots]:
        """Each tile by itself."""
        size = len(self.row) // len(self.caches)
        for number, cache in enumerate(self.caches):
            part = slice(number * size, (number + 1) * size)
            arrays = {name: getattr(self, name)[part] for name in ("row", "running", "token", "factor", "direction")}
            yield _Slots(**arrays, caches=[cache], position=self.position)


def _start(lm: LanguageModel, sae: Sae, chunk: pl.DataFrame, runs: Mapping[str, Prefill], n_steps: int, tile: int | None) -> _Slots:
    """Every row of a chunk at its prefix's last token, the prefix's cache gathered by row, in forwards of `tile` rows; None: in one."""
    names = list(dict.fromkeys(chunk["prefix_id"]))
    row = _padded(np.arange(len(chunk)), tile)
    slot = torch.from_numpy(row).to(lm.device)
    prefix = torch.tensor([names.index(name) for name in chunk["prefix_id"]], device=lm.device)[slot]
    prompts = [runs[name] for name in names]
    factor_dtype = torch.promote_types(sae.W_dec.dtype, torch.float32)  # a factor of 0.8 in bfloat16 is 0.8008
    return _Slots(
        row=row,
        running=np.arange(len(row)) < len(chunk),
        token=torch.tensor([prompt.last_token for prompt in prompts], device=lm.device)[prefix],
        factor=torch.tensor([float(factor) for factor in chunk["factor"]], dtype=factor_dtype, device=lm.device)[slot],
        direction=sae.W_dec[torch.tensor(chunk["feature"].to_list(), device=lm.device)[slot]],
        caches=[_gathered(lm, prompts, some, n_steps) for some in prefix.split(tile or len(row))],
        position=prompts[0].position,
    )


def _gathered(lm: LanguageModel, prompts: Sequence[Prefill], prefix: Int[Tensor, " slot"], n_steps: int) -> Cache:
    """A cache with each slot's prefix, and room for the steps."""
    layers = [_RowLayer(prompts[0].position + n_steps) for _ in lm.blocks]
    for number, layer in enumerate(layers if prompts[0].position else []):
        layer.update(*(torch.cat([getattr(prompt, part)[number] for prompt in prompts])[prefix] for part in ("keys", "values")))
    return Cache(layers=layers)


def _padded(index: Int[np.ndarray, " row"], tile: int | None) -> Int[np.ndarray, " slot"]:
    """An index of whole tiles or, where there are none, of at least `MIN_ROWS` entries, the first repeated."""
    n_slots = max(MIN_ROWS, len(index)) if tile is None else -(-len(index) // tile) * tile
    return np.concatenate([index, np.repeat(index[:1], n_slots - len(index))])


def _continue(
    sweep: _Sweep, slots: _Slots, numbers: Float64[np.ndarray, "row step"], tile: int | None
) -> tuple[Int[np.ndarray, "row step"], Int[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Sample until every row has ended: token ids, how many of them count, and whether the row was stopped rather than cut at the limit."""
    token_ids = np.zeros(numbers.shape, dtype=np.int64)
    lengths = np.zeros(len(numbers), dtype=np.int64)
    stopped = np.zeros(len(numbers), dtype=bool)
    for step in range(sweep.sampling.max_new_tokens):
        tokens = torch.cat([_next_tokens(sweep, part, numbers[part.row, step]) for part in slots.tiles()])
        ended = sweep.ending[tokens].cpu().numpy() & slots.running
        rows = slots.row[slots.running]
        token_ids[rows, step] = tokens.cpu().numpy()[slots.running]
        lengths[rows] = step + 1
        stopped[slots.row[ended]] = True
        if np.array_equal(ended, slots.running):
            break
        slots = _advanced(slots, tokens, slots.running & ~ended, tile)
    return token_ids, lengths, stopped


def _next_tokens(sweep: _Sweep, tile: _Slots, numbers: Float64[np.ndarray, " slot"]) -> Int[Tensor, " slot"]:
    """One step of a tile."""
    logits = _step_logits(sweep.lm, sweep.sae, sweep.depth, tile)
    drawn = torch.from_numpy(numbers).to(sweep.lm.device)
    return sample_tokens(logits, drawn, sweep.sampling.temperature, sweep.sampling.top_k)


def _step_logits(lm: LanguageModel, sae: Sae, depth: int, slots: _Slots) -> Float[Tensor, "slot vocab"]:
    """Feed each slot of one tile its token, through the steered model; the next token's logits, soft-capped where the model does so."""
    position_ids = torch.tensor([[slots.position]], device=lm.device)
    with last_position_edited(lm, depth, amplified(sae, slots.direction, slots.factor)):
        output = lm.model.base_model(
            input_ids=slots.token[:, None], position_ids=position_ids, past_key_values=slots.caches[0], use_cache=True
        )
    return soft_capped(lm, raw_logits(lm, output.last_hidden_state[:, -1]))


def _advanced(slots: _Slots, tokens: Int[Tensor, " slot"], running: Bool[np.ndarray, " slot"], tile: int | None) -> _Slots:
    """The next step's slots, without the finished ones when these have become many: a share of the rows, or enough for fewer tiles."""
    index = np.flatnonzero(running)
    packed = _padded(index, tile)
    few = len(packed) < len(running) and (tile is not None or len(index) < COMPACT_BELOW * len(running))
    if not few:
        return replace(slots, running=running, token=tokens, position=slots.position + 1)
    kept = torch.from_numpy(packed).to(tokens.device)
    return _Slots(
        row=slots.row[packed],
        running=np.arange(len(kept)) < len(index),
        token=tokens[kept],
        factor=slots.factor[kept],
        direction=slots.direction[kept],
        caches=_repacked(slots.caches, kept, tile or len(kept)),
        position=slots.position + 1,
    )


def _repacked(caches: list[Cache], kept: Int[Tensor, " slot"], tile: int) -> list[Cache]:
    """The caches of the slots kept, in tiles; the old ones are emptied on the way, so that both never exist whole."""
    packed: list[list[_RowLayer]] = [[] for _ in kept.split(tile)]
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        keys, values = (
            torch.cat(states) if len(states) > 1 else states[0] for states in zip(*(_taken(layer) for layer in layers), strict=True)
        )
        for new, rows in zip(packed, kept.split(tile), strict=True):
            new.append(layers[0].holding(keys[rows], values[rows]))
    return [Cache(layers=new) for new in packed]


def _taken(layer: _RowLayer) -> tuple[Tensor, Tensor]:
    """A layer's keys and values, which it then no longer holds."""
    keys, values, layer.keys, layer.values = layer.keys, layer.values, None, None
    return keys, values


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
