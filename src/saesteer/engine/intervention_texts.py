"""Texts under any intervention: many rows at once, each as if it ran alone (engine.continuation), the prompt itself steered too.

Rows of one group of interventions (intervention_steering.together) and one prompt length share a batch. A row's tokens depend on its
own intervention, factor, prompt and key only.
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

from saesteer.core.counter_rng import uniforms
from saesteer.engine.continuation import (
    MOST_ROWS,
    RowLayer,
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
from saesteer.engine.intervention_steering import steering_of, together
from saesteer.engine.interventions import Intervention, WeightChange
from saesteer.engine.memory import Halving, rows_that_fit
from saesteer.engine.models import LanguageModel, check_length, depth_of
from saesteer.engine.saes import Sae

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
"""Columns of the texts; `seconds` is a row's share of its batch's wall time."""


@dataclass(frozen=True)
class _Run:
    """What all batches share."""

    lm: LanguageModel
    sae: Sae
    depth: int
    interventions: Sequence[Intervention]
    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seed: int
    ending: Bool[Tensor, " vocab"]


@torch.no_grad()
def steered_texts(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    interventions: Sequence[Intervention],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
    batch: int | None = None,
) -> Iterator[pl.DataFrame]:
    """Continue each row's prompt under its intervention at its factor; yield finished tables (`TEXTS`) of up to `batch` rows, fewer when
    memory runs out; None: as many as fit.

    `rows` has row (a number of the caller's), intervention and prompt (places in the sequences), factor (a decimal string) and key (UInt64,
    what its random numbers are made from). `text` is the continuation alone.
    """
    run = _Run(lm, sae, depth_of(lm, layer, sae.meta.site), interventions, prompts, sampling, seed, ending_tokens(lm, sampling.stop))
    check_length(lm, max((len(prompts[place]) for place in rows["prompt"].unique()), default=0) + sampling.max_new_tokens)
    halving = Halving("steered texts", lm.device)
    for group in _groups(rows, interventions, prompts):
        length = len(prompts[group["prompt"][0]])
        size = batch or rows_that_fit(row_bytes(lm, lm.d_model, length + sampling.max_new_tokens), lm.device, MOST_ROWS)

        def finished(part: slice, size: int, group: pl.DataFrame = group) -> pl.DataFrame:
            return _continued(run, group[part], tile_rows(lm, size, batch))

        yield from halving.over(group.height, size, finished)


def _groups(rows: pl.DataFrame, interventions: Sequence[Intervention], prompts: Sequence[Sequence[int]]) -> Iterator[pl.DataFrame]:
    """Rows that can share a batch: one group of interventions, one prompt length; of fine-tuned weights one factor too."""
    if rows.is_empty():
        return
    group = {place: number for number, places in enumerate(together(interventions)) for place in places}
    lengths = [len(prompt) for prompt in prompts]
    factors = [
        factor if isinstance(interventions[place], WeightChange) else ""
        for place, factor in rows.select("intervention", "factor").iter_rows()
    ]
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
    numbers = uniforms(run.seed, chunk["key"].to_numpy()[:, None], step=np.arange(run.sampling.max_new_tokens)[None])
    prompts = [run.prompts[place] for place in chunk["prompt"]]
    slots = _start(run, chunk, torch.tensor(prompts, device=run.lm.device), tile)
    token_ids, lengths, stopped = continue_rows(run.lm, slots, numbers, run.sampling, run.ending)
    continuations = [ids[:length] for ids, length in zip(token_ids.tolist(), lengths.tolist(), strict=True)]
    made = {
        "row": chunk["row"],
        "token_ids": continuations,
        "text": continuation_texts(run.lm, prompts, continuations),
        "n_tokens": lengths,
        "stopped": stopped,
        "seconds": np.full(len(chunk), (time.perf_counter() - started) / len(chunk)),
    }
    return pl.DataFrame(made, schema_overrides={"token_ids": pl.List(pl.UInt32)}).cast(TEXTS)


def _start(run: _Run, chunk: pl.DataFrame, prompts: Int[Tensor, "row seq"], tile: int | None) -> Slots:
    """Every row at its prompt's last token, the positions before it run under its steering, in forwards of `tile` rows; None: in one."""
    row = padded_index(np.arange(len(chunk)), tile)
    slot = torch.from_numpy(row).to(run.lm.device)
    steering = _steering(run, chunk).take(slot)
    ids = prompts[slot]  # [slot seq]
    places = torch.arange(len(row), device=run.lm.device).split(tile or len(row))
    return Slots(
        row=row,
        running=np.arange(len(row)) < len(chunk),
        token=ids[:, -1],
        steering=steering,
        caches=[_prefilled(run, ids[some], steering.take(some)) for some in places],
        position=ids.shape[1] - 1,
    )


def _steering(run: _Run, chunk: pl.DataFrame) -> Steering:
    used = chunk["intervention"].unique(maintain_order=True).to_list()
    which = torch.tensor([used.index(place) for place in chunk["intervention"]], device=run.lm.device)
    factor_dtype = torch.promote_types(run.sae.W_dec.dtype, torch.float32)
    factor = torch.tensor([float(factor) for factor in chunk["factor"]], dtype=factor_dtype, device=run.lm.device)
    return steering_of([run.interventions[place] for place in used], which, factor, run.sae, run.depth)


def _prefilled(run: _Run, ids: Int[Tensor, "slot seq"], steering: Steering) -> Cache:
    """Keys and values of all prompt positions but the last, with room for the rest."""
    layers = [RowLayer(ids.shape[1] + run.sampling.max_new_tokens) for _ in run.lm.blocks]
    cache = Cache(layers=layers)
    if ids.shape[1] > 1:
        with steering.installed(run.lm, 0, ids.shape[1]):
            run.lm.model.base_model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
    return cache
