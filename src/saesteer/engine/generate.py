"""Steered sampling of features: many (feature, factor, prefix, sample) rows at once, each as if it ran alone (engine.continuation).

Rows whose prefixes have equally many tokens share a batch; a prefix is run once for all features and factors, and its cache gathered by
row. The steering is that of P1 (arXiv 2505.20063), section 3: `amplify` at the last position of every forward, from the last prompt token
on (of a chat prompt, the end of the generation prompt), with a_max per row and step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from transformers.cache_utils import Cache

from saesteer.core.counter_rng import hex_keys, text_keys, uniforms
from saesteer.core.tables import GENERATIONS
from saesteer.engine.continuation import (
    MOST_ROWS,
    RowLayer,
    Sampling,
    Slots,
    continuation_texts,
    continue_rows,
    ending_tokens,
    padded_index,
    row_bytes,
    tile_rows,
)
from saesteer.engine.memory import Halving, rows_that_fit
from saesteer.engine.models import LanguageModel, Prefill, check_length, depth_of, prefills, prompt_token_ids
from saesteer.engine.saes import Sae, check_features
from saesteer.engine.steering import amplified, last_position_edited

ALGORITHM_VERSION = 1

SCHEMA = pl.Schema(GENERATIONS.schema)


@dataclass(frozen=True)
class _Amplification:
    """A feature and a factor a row."""

    sae: Sae
    depth: int
    direction: Float[Tensor, "row d_model"]
    factor: Float[Tensor, " row"]

    def take(self, rows: Int[Tensor, " kept"]) -> _Amplification:
        return replace(self, direction=self.direction[rows], factor=self.factor[rows])

    def installed(self, lm: LanguageModel, start: int, prompt_length: int) -> AbstractContextManager[None]:
        return last_position_edited(lm, self.depth, amplified(self.sae, self.direction, self.factor))


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
            return _swept(sweep, group[part], tile_rows(lm, size, batch))

        run = runs[group["prefix_id"][0]]
        size = batch or rows_that_fit(row_bytes(lm, _kv_width(lm, run), run.position + sampling.max_new_tokens), lm.device, MOST_ROWS)
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
    slots = _start(sweep, chunk, tile)
    token_ids, lengths, stopped = continue_rows(sweep.lm, slots, numbers, sweep.sampling, sweep.ending)
    continuations = [ids[:length] for ids, length in zip(token_ids.tolist(), lengths.tolist(), strict=True)]
    texts = continuation_texts(sweep.lm, [sweep.prompts[name] for name in chunk["prefix_id"]], continuations)
    return _table(chunk, sweep.layer, continuations, texts, stopped)


def _kv_width(lm: LanguageModel, run: Prefill) -> int:
    """Numbers a layer keeps of a position, of keys or of values."""
    return run.keys[0].shape[1] * run.keys[0].shape[3] if run.keys else lm.d_model


def _prompts(lm: LanguageModel, rows: pl.DataFrame, prefixes: Mapping[str, str]) -> dict[str, list[int]]:
    """Token ids of the prefixes that rows name."""
    names = rows["prefix_id"].unique(maintain_order=True).to_list()
    unknown = [name for name in names if name not in prefixes]
    if unknown:
        raise ValueError(f"prefix_id {unknown[0]} has no text: the prefixes given are {', '.join(prefixes)}")
    return {name: prompt_token_ids(lm, prefixes[name]) for name in names}


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


def _start(sweep: _Sweep, chunk: pl.DataFrame, tile: int | None) -> Slots:
    """Every row of a chunk at its prefix's last token, the prefix's cache gathered by row, in forwards of `tile` rows; None: in one."""
    lm, sae = sweep.lm, sweep.sae
    names = list(dict.fromkeys(chunk["prefix_id"]))
    row = padded_index(np.arange(len(chunk)), tile)
    slot = torch.from_numpy(row).to(lm.device)
    prefix = torch.tensor([names.index(name) for name in chunk["prefix_id"]], device=lm.device)[slot]
    prompts = [sweep.runs[name] for name in names]
    factor_dtype = torch.promote_types(sae.W_dec.dtype, torch.float32)  # a factor of 0.8 in bfloat16 is 0.8008
    factor = torch.tensor([float(factor) for factor in chunk["factor"]], dtype=factor_dtype, device=lm.device)
    direction = sae.W_dec[torch.tensor(chunk["feature"].to_list(), device=lm.device)[slot]]
    return Slots(
        row=row,
        running=np.arange(len(row)) < len(chunk),
        token=torch.tensor([prompt.last_token for prompt in prompts], device=lm.device)[prefix],
        steering=_Amplification(sae, sweep.depth, direction, factor[slot]),
        caches=[_gathered(lm, prompts, some, sweep.sampling.max_new_tokens) for some in prefix.split(tile or len(row))],
        position=prompts[0].position,
    )


def _gathered(lm: LanguageModel, prompts: Sequence[Prefill], prefix: Int[Tensor, " slot"], n_steps: int) -> Cache:
    """A cache with each slot's prefix, and room for the steps."""
    layers = [RowLayer(prompts[0].position + n_steps) for _ in lm.blocks]
    for number, layer in enumerate(layers if prompts[0].position else []):
        layer.update(*(torch.cat([getattr(prompt, part)[number] for prompt in prompts])[prefix] for part in ("keys", "values")))
    return Cache(layers=layers)


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
