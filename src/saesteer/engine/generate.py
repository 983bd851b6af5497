"""Texts under interventions: many rows at once, each as if it ran alone (engine.continuation).

Rows of one group of interventions (engine.steering.together) and one prompt length share a batch. Where an intervention leaves the prompt
as it is, a prompt is run once and its cache gathered by row; elsewhere every row's prompt runs under its own steering. A row's tokens
depend on its own intervention, factor, prompt and stream of random numbers only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import Cache

from saesteer.core.counter_rng import draws
from saesteer.engine.cache import Prefixes, row_layers
from saesteer.engine.continuation import (
    MOST_ROWS,
    Sampling,
    Slots,
    Steering,
    continuation_texts,
    continue_rows,
    ending_tokens,
    padded_index,
    row_bytes,
    tile_rows,
)
from saesteer.engine.interventions import Intervention, WeightChange
from saesteer.engine.memory import Halving, rows_that_fit
from saesteer.engine.models import MIN_ROWS, LanguageModel, check_length, depth_of, prefills
from saesteer.engine.saes import Sae
from saesteer.engine.steering import changes_prompt, steering_of, together

ALGORITHM_VERSION = 1

TEXTS = pl.Schema(
    {
        "row": pl.UInt32(),
        "token_ids": pl.List(pl.UInt32()),
        "text": pl.String(),
        "n_tokens": pl.UInt16(),
        "stopped": pl.Boolean(),
        "seconds": pl.Float64(),
    }
)
"""Columns of the texts: `token_ids` and `n_tokens` include the token that ended the text (stop character or end of sequence), `text` is the
continuation alone, `seconds` a row's share of its batch's wall time."""


@dataclass(frozen=True)
class _Run:
    """What all batches share."""

    lm: LanguageModel
    sae: Sae
    depth: int
    interventions: Sequence[Intervention]
    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    ending: Bool[np.ndarray, " vocab"]
    kv_width: int  # numbers that a layer keeps of a position, of keys or of values
    prefixes: Prefixes


@torch.no_grad()
def steered_texts(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    interventions: Sequence[Intervention],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    batch: int | None = None,
) -> Iterator[pl.DataFrame]:
    """Continue each row's prompt under its intervention at its factor; yield finished tables (`TEXTS`) of up to `batch` rows, fewer when
    memory runs out; None: as many as fit.

    `rows` has row (a number of the caller's), intervention and prompt (places in the sequences), factor (a decimal string) and stream
    (UInt64, core.counter_rng.streams: what its random numbers are drawn from). `prompts` are token ids.
    """
    depth = depth_of(lm, layer, sae.meta.site)
    if rows.is_empty():
        return
    check_length(lm, max(len(prompts[place]) for place in rows["prompt"].unique()) + sampling.max_new_tokens)
    ending = ending_tokens(lm, sampling.stop)
    run = _Run(lm, sae, depth, interventions, prompts, sampling, ending, _kv_width(lm, prompts[rows["prompt"][0]]), Prefixes(lm))
    halving = Halving("texts", lm.device)
    for group in _groups(rows, interventions, prompts):
        length = len(prompts[group["prompt"][0]])
        size = batch or rows_that_fit(row_bytes(lm, run.kv_width, length + sampling.max_new_tokens), lm.device, MOST_ROWS)
        full = MIN_ROWS if isinstance(interventions[group["intervention"][0]], WeightChange) else None  # few rows share weights

        def finished(part: slice, size: int, group: pl.DataFrame = group, full: int | None = full) -> pl.DataFrame:
            return _continued(run, group[part], tile_rows(lm, size, batch, full))

        yield from halving.over(group.height, size, finished)


def _kv_width(lm: LanguageModel, prompt: Sequence[int]) -> int:
    (run,) = prefills(lm, [list(prompt)])
    attention = [keys for keys, linear in zip(run.keys, lm.structure.linear, strict=False) if not linear]
    return attention[0].shape[1] * attention[0].shape[3] if attention else lm.d_model


def _groups(rows: pl.DataFrame, interventions: Sequence[Intervention], prompts: Sequence[Sequence[int]]) -> Iterator[pl.DataFrame]:
    """Rows that can share a batch: one group of interventions, one prompt length; of fine-tuned weights one factor too."""
    group = {place: number for number, places in enumerate(together(interventions)) for place in places}
    lengths = [len(prompt) for prompt in prompts]
    weights = [isinstance(one, WeightChange) for one in interventions]
    factors = [factor if weights[place] else "" for place, factor in rows.select("intervention", "factor").iter_rows()]
    sorted_into = rows.with_columns(
        _group=pl.Series([group[place] for place in rows["intervention"]]),
        _length=pl.Series([lengths[place] for place in rows["prompt"]]),
        _factor=pl.Series(factors, dtype=pl.String),
    )
    for _, some in sorted_into.group_by("_group", "_length", "_factor", maintain_order=True):
        yield some.select(rows.columns)


def _continued(run: _Run, chunk: pl.DataFrame, tile: int | None) -> pl.DataFrame:
    """The texts of rows that share a batch."""
    started = time.perf_counter()
    token_ids, lengths, stopped = continue_rows(run.lm, _start(run, chunk, tile), len(chunk), run.sampling, run.ending)
    continuations = [ids[:length] for ids, length in zip(token_ids.tolist(), lengths.tolist(), strict=True)]
    made = {
        "row": chunk["row"],
        "token_ids": continuations,
        "text": continuation_texts(run.lm, [run.prompts[place] for place in chunk["prompt"]], continuations),
        "n_tokens": lengths,
        "stopped": stopped,
        "seconds": np.full(len(chunk), (time.perf_counter() - started) / len(chunk)),
    }
    return pl.DataFrame(made, schema_overrides={"token_ids": pl.List(pl.UInt32)}).cast(TEXTS)


def _start(run: _Run, chunk: pl.DataFrame, tile: int | None) -> Slots:
    """Every row at its prompt's last token, in forwards of `tile` rows; None: in one."""
    lm = run.lm
    row = padded_index(np.arange(len(chunk)), tile)
    slot = torch.from_numpy(row).to(lm.device)
    steering = _steering(run, chunk).take(slot)
    places = chunk["prompt"].to_list()
    if changes_prompt(run.interventions[chunk["intervention"][0]]):
        ids = torch.tensor([run.prompts[place] for place in places], device=lm.device)[slot]  # [slot seq]
        tiles = torch.arange(len(row), device=lm.device).split(tile or len(row))
        caches = [_steered_prefill(run, ids[some], steering.take(some)) for some in tiles]
    else:
        beginnings = [tuple(run.prompts[places[at]][:-1]) for at in row]
        caches = run.prefixes.caches(beginnings, tile or len(row), run.sampling.max_new_tokens)
    numbers = draws(chunk["stream"].to_numpy()[:, None], np.arange(run.sampling.max_new_tokens)[None])  # [row step]
    last = torch.tensor([run.prompts[place][-1] for place in places], device=lm.device)[slot]
    running = np.arange(len(row)) < len(chunk)
    return Slots(row, running, torch.from_numpy(numbers).to(lm.device)[slot], last, steering, caches, len(run.prompts[places[0]]) - 1)


def _steering(run: _Run, chunk: pl.DataFrame) -> Steering:
    used = {place: number for number, place in enumerate(chunk["intervention"].unique(maintain_order=True))}
    which = torch.tensor([used[place] for place in chunk["intervention"]], device=run.lm.device)
    factor_dtype = torch.promote_types(run.sae.W_dec.dtype, torch.float32)  # a factor of 0.8 in bfloat16 is 0.8008
    factor = torch.tensor([float(factor) for factor in chunk["factor"]], dtype=factor_dtype, device=run.lm.device)
    return steering_of(run.lm, [run.interventions[place] for place in used], which, factor, run.sae, run.depth)


def _steered_prefill(run: _Run, ids: Int[Tensor, "slot seq"], steering: Steering) -> Cache:
    """Keys and values of all prompt positions but the last under the rows' steering, with room for the rest."""
    cache = Cache(layers=row_layers(run.lm, ids.shape[1] + run.sampling.max_new_tokens))
    if ids.shape[1] > 1:
        with steering.installed(run.lm, 0, ids.shape[1]):
            run.lm.model.base_model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
    return cache
