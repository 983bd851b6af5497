"""Texts under interventions: many rows at once, each as if it ran alone (engine.continuation).

Rows of one group of interventions (engine.steering.together) share a batch, with prompts of one length (continuation.buffer_length) or,
where rows attend by length (engine.attention), of any. Where an intervention leaves the prompt as it is, a prompt is run once and its cache
gathered by row; elsewhere every row's prompt runs under its own steering. A row's tokens depend on its own intervention, factor, prompt and
stream of random numbers only.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.cache_utils import Cache

from saesteer.core.counter_rng import draws
from saesteer.core.errors import NotFiniteError
from saesteer.engine.adapters import WeightChange
from saesteer.engine.attention import mixes_lengths
from saesteer.engine.cache import Prefixes, gathered, row_layers, taken
from saesteer.engine.conditional import switched
from saesteer.engine.continuation import (
    MOST_ROWS,
    SHORTEST_BUFFER,
    BatchSteering,
    Continued,
    Sampling,
    Slots,
    buffer_length,
    continuation_texts,
    continued_steps,
    ending_tokens,
    full_tile,
    padded_index,
    step_bytes,
    step_logits,
    tile_rows,
)
from saesteer.engine.finite import check_logits, fault, rows_named
from saesteer.engine.hook_points import HookPoint, sae_hook_point
from saesteer.engine.interventions import features_of
from saesteer.engine.memory import Halving, rows_that_fit, rows_within
from saesteer.engine.models import MIN_ROWS, LanguageModel, check_length, check_not_empty, fewest_texts, prefills, shape_matters
from saesteer.engine.saes import Sae
from saesteer.engine.steering import Intervention, SteeredRows, steering_of, together

ALGORITHM_VERSION = 2

PREFILL_TOKENS = 1024
"""Tokens of a forward of steered prompts where shapes matter: enough on a GPU that launching kernels takes no longer than they do."""

ABOUT_PROMPT_TOKENS = {"plain": 8, "chat": 32}
"""Roughly the tokens of a prompt, where a sweep's memory is planned."""

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
"""Columns of the texts. `token_ids` and `n_tokens` include the token that ended the text (stop character or end of sequence), `text` is the
continuation alone, `seconds` a row's share of its batch's wall time."""


@dataclass(frozen=True)
class Growing:
    """Texts while they are written."""

    texts: list[str | None]
    """None: a step's logits were not finite."""
    stopped: list[bool]
    """Which of them have ended before the limit."""


@dataclass(frozen=True)
class _Run:
    """What all batches share."""

    lm: LanguageModel
    sae: Sae
    hook_point: HookPoint
    interventions: Sequence[Intervention]
    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    prefixes: Prefixes

    @cached_property
    def ending(self) -> Bool[np.ndarray, " vocab"]:
        """Which tokens end a text."""
        return ending_tokens(self.lm, self.sampling.stop)

    @cached_property
    def cache_bytes(self) -> tuple[int, int]:
        """Bytes that a row's caches hold of each position, and of any number of positions (states of linear layers)."""
        (one_position,) = prefills(self.lm, [[0, 0]])
        layers = zip(one_position.keys, one_position.values, self.lm.structure.linear, strict=True)
        sizes = [(keys.nbytes + values.nbytes, linear) for keys, values, linear in layers]
        return sum(size for size, linear in sizes if not linear), sum(size for size, linear in sizes if linear)


@torch.no_grad()
def steered_texts(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    interventions: Sequence[Intervention],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    called: Sequence[str] | None = None,
) -> Iterator[pl.DataFrame]:
    """Continue each row's prompt under its intervention at its factor; yield tables (`TEXTS`) as they are finished. A row whose logits are
    not finite is refused, after the finished ones; `called` says what its message calls each intervention.

    `rows` has row (a number of the caller's), intervention and prompt (places in the sequences), factor (a decimal string) and stream
    (UInt64, core.counter_rng.streams: what its random numbers are drawn from). `prompts` are token ids.
    """
    run = _Run(lm, sae, sae_hook_point(lm, layer, sae.meta), interventions, prompts, sampling, Prefixes(lm))
    if rows.is_empty():
        return
    halving = Halving("texts", lm.device)
    shortest_first = np.argsort([len(prompts[place]) for place in rows["prompt"]], kind="stable")  # those of one length attend together
    for length, group in _groups(run, rows[shortest_first]):
        few_share_weights = isinstance(interventions[group["intervention"][0]], WeightChange)
        full = MIN_ROWS if few_share_weights else full_tile(lm.device, length)

        def finished(part: slice, size: int, length: int = length, group: pl.DataFrame = group, full: int = full) -> _Finished:
            return _continued(run, group[part], length, tile_rows(lm, size, full))

        for texts, lost in halving.over(group.height, _rows_that_fit(run, length, full), finished):
            if texts.height:
                yield texts
            if not lost.is_empty():
                raise NotFiniteError(fault(f"{_name(run, lost.row(0, named=True), called)}: logits are", lm.head.weight))


@torch.no_grad()
def steered_texts_by_token(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    interventions: Sequence[Intervention],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
) -> Iterator[Growing]:
    """The texts of `steered_texts` while they are written, after each token: those of a few rows, in their order, which must be able
    to share a batch (one kind of intervention, one length of prompts but where lengths mix)."""
    run = _Run(lm, sae, sae_hook_point(lm, layer, sae.meta), interventions, prompts, sampling, Prefixes(lm))
    group, slots = _one_batch(run, rows)
    for continued in continued_steps(lm, slots, group.height, sampling, run.ending):
        yield Growing(_texts_of(run, group, continued)[1], continued.stopped.tolist())


@torch.no_grad()
def next_log_probs(
    lm: LanguageModel, sae: Sae, layer: int, rows: pl.DataFrame, interventions: Sequence[Intervention], prompts: Sequence[Sequence[int]]
) -> Float[Tensor, "row vocab"]:
    """Log-probabilities of the token after the prompt, of rows that can share a batch, as in `steered_texts_by_token`."""
    run = _Run(lm, sae, sae_hook_point(lm, layer, sae.meta), interventions, prompts, Sampling(max_new_tokens=1), Prefixes(lm))
    group, slots = _one_batch(run, rows)
    logits = step_logits(lm, next(slots.tiles()), slots.place + 1)[: group.height].float()
    with rows_named(lambda row: _name(run, group.row(row, named=True))):
        check_logits(logits, lm.head.weight)
    return logits.log_softmax(dim=-1)


def _one_batch(run: _Run, rows: pl.DataFrame) -> tuple[pl.DataFrame, Slots]:
    """Rows that can share a batch, each at its prompt's last token."""
    ((length, group),) = _groups(run, rows)
    full = full_tile(run.lm.device, length)
    return group, _start(run, group, length, tile_rows(run.lm, full, full))


def _rows_that_fit(run: _Run, length: int, full: int) -> int:
    """Rows of a batch: their caches, and a step of one tile or, where there are none, of all."""
    capacity = length - 1 + run.sampling.max_new_tokens
    cache, step = run.cache_bytes[0] * capacity + run.cache_bytes[1], step_bytes(run.lm, capacity, run.lm.device)
    tile = tile_rows(run.lm, MOST_ROWS[-1], full)
    if tile is None:
        return rows_that_fit(cache + step, run.lm.device, MOST_ROWS)
    return rows_that_fit(cache, run.lm.device, MOST_ROWS, step, tile)


def sweep_bytes(lm: LanguageModel, held: int, gpu: int, prompt_format: str, n_new: int) -> int:
    """About the most bytes that a sweep of texts of `n_new` tokens takes of a GPU of `gpu` bytes: `held` by weights and SAE, the caches of
    as many texts as go together (without states of linear layers), and a step of one tile. The model may be without weights."""
    length = buffer_length(lm, ABOUT_PROMPT_TOKENS[prompt_format], n_new)
    capacity, device = length - 1 + n_new, torch.device("cuda")
    tile = full_tile(device, length)
    config = lm.model.config
    n_heads = config.num_attention_heads
    n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
    head_dim = getattr(config, "head_dim", None) or lm.d_model // n_heads
    numbers = 2 * lm.structure.linear.count(False) * int(n_kv_heads * head_dim)  # of a position, keys and values
    cache, step = numbers * capacity * lm.dtype.itemsize, step_bytes(lm, capacity, device)
    rows = rows_within(gpu - held, cache, MOST_ROWS[1], step, tile)
    return held + rows * cache + min(rows, tile) * step


def _groups(run: _Run, rows: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """Rows that can share a batch, in their order, with the longest prompt's length in the caches: one group of interventions, of
    fine-tuned weights one factor too. Prompts that leave no room for a text are refused."""
    used = [run.prompts[place] for place in rows["prompt"].unique()]
    check_not_empty(used)
    check_length(run.lm, max(map(len, used)) + run.sampling.max_new_tokens)
    group = {place: number for number, places in enumerate(together(run.interventions)) for place in places}
    weights = [isinstance(intervention, WeightChange) for intervention in run.interventions]
    n_new = run.sampling.max_new_tokens
    lengths = [[buffer_length(run.lm, len(prompt), n_new, shortest) for prompt in run.prompts] for shortest in SHORTEST_BUFFER]
    cells = list(rows.select("intervention", "prompt", "factor").iter_rows())
    sorted_into = rows.with_columns(
        _group=pl.Series([group[place] for place, _, _ in cells]),
        _length=pl.Series([lengths[weights[place]][prompt] for place, prompt, _ in cells]),
        _factor=pl.Series([factor if weights[place] else "" for place, _, factor in cells], dtype=pl.String),
    )
    lengths_mix = not shape_matters(run.lm) and mixes_lengths(run.lm.model)
    of_batch = pl.col("_length") > 1 if lengths_mix else pl.col("_length")  # a prompt of one token has no caches
    for _, group_rows in sorted_into.group_by("_group", of_batch, "_factor", maintain_order=True):
        yield max(group_rows["_length"]), group_rows.select(rows.columns)


_Finished = tuple[pl.DataFrame, pl.DataFrame]
"""Texts, and the rows that have none, since a step's logits were not finite."""


def _continued(run: _Run, chunk: pl.DataFrame, length: int, tile: int | None) -> _Finished:
    """The texts of rows that share a batch."""
    started = time.perf_counter()
    *_, continued = continued_steps(run.lm, _start(run, chunk, length, tile), len(chunk), run.sampling, run.ending)
    token_ids, texts = _texts_of(run, chunk, continued)
    columns = {
        "row": chunk["row"],
        "token_ids": token_ids,
        "text": texts,
        "n_tokens": continued.lengths,
        "stopped": continued.stopped,
        "seconds": np.full(len(chunk), (time.perf_counter() - started) / len(chunk)),
    }
    made = pl.DataFrame(columns, schema_overrides={"token_ids": pl.List(pl.UInt32)}).cast(TEXTS)
    failed = pl.Series(continued.failed)
    return made.filter(~failed), chunk.filter(failed)


def _name(run: _Run, row: dict[str, Any], called: Sequence[str] | None = None) -> str:
    """What steers a row, how much and which prompt."""
    place, prompt = row["intervention"], run.lm.tokenizer.decode(run.prompts[row["prompt"]])
    features = ", ".join(f"feature {feature}" for feature in features_of(run.interventions[place]))
    name = called[place] if called else features or run.interventions[place].kind
    return f"layer {run.hook_point.layer}, {name}, factor {row['factor']}, prompt {prompt!r}"


def _texts_of(run: _Run, chunk: pl.DataFrame, continued: Continued) -> tuple[list[list[int] | None], list[str | None]]:
    """Each row's tokens and text."""
    rows = zip(continued.token_ids.tolist(), continued.lengths.tolist(), continued.failed.tolist(), strict=True)
    token_ids = [None if failed else ids[:length] for ids, length, failed in rows]
    texts = continuation_texts(run.lm, [run.prompts[place] for place in chunk["prompt"]], [ids or [] for ids in token_ids])
    return token_ids, [None if ids is None else text for ids, text in zip(token_ids, texts, strict=True)]


def _start(run: _Run, chunk: pl.DataFrame, length: int, tile: int | None) -> Slots:
    """Every row at its prompt's last token, which the caches have at `length` - 1, in tiles of `tile` rows; None: in one forward,
    where the longest prompt has it."""
    lm, room = run.lm, run.sampling.max_new_tokens
    if tile is None:
        length = max(len(run.prompts[place]) for place in chunk["prompt"])
    row = padded_index(np.arange(len(chunk)), tile)
    slot = torch.from_numpy(row).to(lm.device)
    used = {place: number for number, place in enumerate(chunk["intervention"].unique(maintain_order=True))}
    interventions = [run.interventions[place] for place in used]
    which = torch.tensor([used[place] for place in chunk["intervention"]], device=lm.device)
    factor_dtype = torch.promote_types(run.sae.W_dec.dtype, torch.float32)  # a factor of 0.8 in bfloat16 is 0.8008
    factor = torch.tensor([float(factor) for factor in chunk["factor"]], dtype=factor_dtype, device=lm.device)
    factor = switched(lm, run.hook_point, interventions, which, factor, [run.prompts[place] for place in chunk["prompt"]])
    steering = steering_of(interventions, SteeredRows(lm, which, factor, run.sae, run.hook_point)).take(slot)
    prompts = [run.prompts[place] for place in chunk["prompt"].to_numpy()[row]]
    if interventions[0].changes_prompt and length > 1:
        caches = _steered_prefills(run, prompts, len(chunk), steering, length - 1, tile)
    else:
        caches = run.prefixes.caches([tuple(prompt[:-1]) for prompt in prompts], tile or len(row), length - 1, room)
    numbers = draws(chunk["stream"].to_numpy()[:, None], np.arange(room)[None])  # [row step]
    last = torch.tensor([prompt[-1] for prompt in prompts], device=lm.device)
    before = torch.tensor([length - len(prompt) for prompt in prompts], device=lm.device)
    begin_alike = tile is None and not before.any()
    running = np.arange(len(row)) < len(chunk)
    return Slots(
        row, running, torch.from_numpy(numbers).to(lm.device)[slot], last, steering, caches, length - 1, None if begin_alike else before
    )


def _steered_prefills(
    run: _Run, prompts: Sequence[Sequence[int]], n_running: int, steering: BatchSteering, length: int, tile: int | None
) -> list[Cache]:
    """Keys and values of all prompt positions but the last under the slots' steering, which end at `length`, with room for the rest.
    Slots after the first `n_running` are padding. Where shapes matter, they run too, and prompts of one length run in forwards of as many
    rows as that length has."""
    n_tokens = np.array([len(prompt) for prompt in prompts])
    runs, order = [], np.zeros(len(prompts), dtype=np.int64)  # order: of each slot, its row of all runs; of padding, the first
    n_before = 0
    for n in np.unique(n_tokens):
        slots = np.flatnonzero(n_tokens[: None if tile else n_running] == n)
        n_rows = len(slots) if tile is None else min(tile, max(MIN_ROWS, PREFILL_TOKENS // int(n)))
        for start in range(0, len(slots), n_rows):
            part = slots[start : start + n_rows]
            order[part] = n_before + np.arange(len(part))
            padded = padded_index(part, None if tile is None else n_rows, fewest_texts(run.lm, int(n) - 1))
            ids = torch.tensor([prompts[slot] for slot in padded], device=run.lm.device)
            cache = Cache(layers=row_layers(run.lm, int(n) - 1))
            with steering.take(torch.from_numpy(padded).to(run.lm.device)).installed(run.lm, 0, int(n)):
                run.lm.model.base_model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
            runs.append(cache)
            n_before += len(padded)
    which = torch.from_numpy(order).to(run.lm.device)
    layers = ([taken(layer) for layer in of_runs] for of_runs in zip(*(cache.layers for cache in runs), strict=True))
    return gathered(run.lm, layers, which, tile or len(prompts), length, run.sampling.max_new_tokens)
