"""Output score: does steering with a feature promote the tokens that the feature stands for? P1 (arXiv 2505.20063), section 3."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from saesteer.core.errors import SettingsError
from saesteer.core.tables import OUTPUT_SCORE
from saesteer.core.tables.steps import NOT_FINITE
from saesteer.engine.amplify import amplify
from saesteer.engine.head import logit_chunks, raw_logits, soft_capped
from saesteer.engine.memory import Halving, forward_bytes, rows_that_fit
from saesteer.engine.models import (
    MIN_ROWS,
    LanguageModel,
    Prefill,
    pad_rows,
    plain_token_ids,
    prefill,
    shape_matters,
)
from saesteer.engine.saes import Sae, check_features, checked_meta, decoder_blocks, largest_code, largest_code_in_file
from saesteer.engine.sites import Place, Site, hidden_after_prompt, reading, site_of

ALGORITHM_VERSION = 2

VOCABULARY_CHUNK = 2048
"""Logits computed at a time for each row."""

MOST_ROWS = (512, 4096)
"""Largest batch on a CPU and on a GPU: beyond it nothing gets faster (a CPU's caches are full; a GPU no longer waits for launches)."""

READ_ROWS = 4096
"""Decoder rows read from a file, or gathered, at a time."""

GATHERED_AT_A_TIME = 2**22
"""Most numbers of head rows gathered at a time, for the lens tokens' own logits."""

SCHEMA = pl.Schema({name: dtype for name, dtype in OUTPUT_SCORE.schema.items() if name != "layer"})


@dataclass(frozen=True)
class _Prompt:
    """What all features of a layer share: the prompt's cache, what the unsteered model has at its last position, what follows from it."""

    run: Prefill
    place: Place
    value: Float[Tensor, "1 width"]  # at the place
    past: Float[Tensor, "1 d_model"] | None  # sites.Reading
    a_max: Float[Tensor, " 1"]
    log_top: float  # log of the likeliest next token's probability


@torch.no_grad()
def output_scores(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    features: Sequence[int],
    lens_token_ids: Int[Tensor, "feature k"],
    prompt: str,
    factor: float,
    batch: int | None = None,
) -> pl.DataFrame:
    """Output score of each feature: steer the prompt's last position at the SAE's site of `layer` with factor * a_max * W_dec[f], read the
    next-token distribution p.

    S_out = (1 - min_rank / |V|) * max_prob over the feature's lens tokens; rank = number of tokens with a larger logit, so 0 is the
    likeliest. `a_max` is the largest code of what the SAE reads there, unsteered, in the SAE's units; the same for every feature, because
    the prompt is. The prompt is always plain text, as in P1's program, also for a model that answers in a chat template: it is the
    beginning of a sentence to go on with, which a user's turn would turn into something to answer, and so it measures the feature's effect
    on running text, comparable between models.

    delta_token_confidence = log max p(unsteered) - log max p(steered), in nats (arXiv 2510.03659), of the same steering.

    `batch` features go together, fewer when memory runs out; None: as many as fit.
    """
    check_features(features, sae.meta.n_features, f"the SAE of layer {layer}")
    shared = _shared(lm, site_of(lm, layer, sae.meta.site), prompt, lambda read: largest_code(sae, read))
    chosen = (torch.tensor(list(features[start : start + READ_ROWS]), device=lm.device) for start in range(0, len(features), READ_ROWS))
    blocks = (sae.W_dec[some] for some in chosen)
    frames = list(_scored(lm, shared, features, blocks, lens_token_ids, factor, batch))
    return pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA)


@torch.no_grad()
def output_scores_from_file(
    lm: LanguageModel,
    path: Path,
    layer: int,
    features: Sequence[int],
    lens_token_ids: Int[Tensor, "feature k"],
    prompt: str,
    factor: float,
    batch: int | None = None,
) -> Iterator[pl.DataFrame]:
    """`output_scores` of a converted SAE that stays in its file, in finished frames of up to a batch: the encoder is read once in blocks,
    decoder rows ahead of the computing, so that memory grows with neither the SAE nor the number of features. The SAE's numbers are used as
    they are stored, in float32, whatever the model's format."""
    meta = checked_meta(path)
    shared = _shared(lm, site_of(lm, layer, meta.site), prompt, lambda read: largest_code_in_file(path, read))
    yield from _scored(lm, shared, features, decoder_blocks(path, features, lm.device, READ_ROWS), lens_token_ids, factor, batch)


def _shared(lm: LanguageModel, site: Site, prompt: str, a_max: Callable[[Tensor], Tensor]) -> _Prompt:
    """Run the prompt, unsteered."""
    token_ids = plain_token_ids(lm, prompt)
    run = prefill(lm, token_ids)
    unsteered = reading(lm, torch.tensor([token_ids], device=lm.device), site)
    read, value = unsteered.read[:, -1], unsteered.value[:, -1]
    past = None if unsteered.past is None else unsteered.past[:, -1]
    hidden = hidden_after_prompt(lm, run, site.place, value, past)
    log_top = soft_capped(lm, raw_logits(lm, hidden)).double().log_softmax(dim=1).amax()
    return _Prompt(run, site.place, value, past, a_max(pad_rows(read))[:1], float(log_top))


def _scored(
    lm: LanguageModel,
    shared: _Prompt,
    features: Sequence[int],
    blocks: Iterable[Float[Tensor, "row d_model"]],
    lens: Int[Tensor, "feature k"],
    factor: float,
    batch: int | None,
) -> Iterator[pl.DataFrame]:
    """The rows of features whose decoder rows come in blocks, in frames of up to a batch."""
    cached = shared.run.position
    rows = batch or rows_that_fit(forward_bytes(lm, 1, cached) + 20 * VOCABULARY_CHUNK, lm.device, MOST_ROWS)
    halving = Halving("output score", lm.device)
    first = 0
    for block in blocks:
        numbers, tokens = features[first : first + len(block)], lens[first : first + len(block)]
        first += len(block)

        def frame(part: slice, size: int, block: Tensor = block, numbers: Sequence[int] = numbers, tokens: Tensor = tokens) -> pl.DataFrame:
            return _table(lm, shared, numbers[part], _steered_statistics(lm, shared, block[part], tokens[part], factor, size))

        yield from halving.over(len(block), rows, frame)


@dataclass(frozen=True)
class _Statistics:
    """Of each row's next-token distribution."""

    rank: Int[Tensor, " row"]  # of the likeliest lens token
    probability: Float64[Tensor, " row"]  # its
    log_top: Float64[Tensor, " row"]  # log of the likeliest token's probability


def _steered_statistics(
    lm: LanguageModel, shared: _Prompt, directions: Float[Tensor, "row d_model"], lens: Int[Tensor, "row k"], factor: float, size: int
) -> _Statistics:
    """Steer with each direction. Where shapes matter, every forward has the batch's `size`."""
    n = len(directions)
    padded, lens = (pad_rows(rows, size if shape_matters(lm) else MIN_ROWS) for rows in (directions, lens.to(lm.device)))
    factors = torch.full((len(padded),), factor, dtype=shared.a_max.dtype, device=lm.device)
    steered = amplify(shared.value.expand(len(padded), -1), padded, factors, shared.a_max.expand(len(padded)))
    statistics = _statistics(lm, hidden_after_prompt(lm, shared.run, shared.place, steered, shared.past), lens)
    return _Statistics(statistics.rank[:n], statistics.probability[:n], statistics.log_top[:n])


def _statistics(lm: LanguageModel, hidden: Float[Tensor, "row d_model"], lens: Int[Tensor, "row k"]) -> _Statistics:
    """One pass over the vocabulary in chunks, in float32; sums over chunks in float64.

    The soft cap is monotone, so ranks are counted on raw logits; the lens token itself is left out of its count, because the chunk's
    arithmetic may differ from the gathered one in the last bit.
    """
    best, where = _gathered_logits(lm, hidden, lens).max(dim=1, keepdim=True)  # [row 1]
    best_id = lens.gather(1, where)
    rank = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    largest, sums = [], []  # of each chunk: its largest logit, and exponentials relative to that, summed
    for start, logits in logit_chunks(lm, hidden, VOCABULARY_CHUNK):
        larger = logits > best
        inside = (best_id >= start) & (best_id < start + logits.shape[1])
        itself = larger.gather(1, (best_id - start).clamp(0, logits.shape[1] - 1)) & inside
        rank += larger.sum(dim=1) - itself.squeeze(1).long()
        capped = soft_capped(lm, logits)
        largest.append(capped.amax(dim=1))
        sums.append((capped - largest[-1][:, None]).exp_().sum(dim=1))
    tops = torch.stack(largest, dim=1).double()  # [row chunk]
    log_sum = (torch.stack(sums, dim=1).double().log() + tops).logsumexp(dim=1)
    return _Statistics(rank, (soft_capped(lm, best).squeeze(1) - log_sum).exp(), tops.amax(dim=1) - log_sum)


def _gathered_logits(lm: LanguageModel, hidden: Float[Tensor, "row d_model"], ids: Int[Tensor, "row k"]) -> Float[Tensor, "row k"]:
    """Raw logits of a few tokens per row, in float32."""
    bias = getattr(lm.head, "bias", None)
    n_rows = max(MIN_ROWS, GATHERED_AT_A_TIME // (ids.shape[1] * lm.d_model))
    parts = [
        (lm.head.weight[some].float() * rows.float()[:, None]).sum(dim=2)
        for rows, some in zip(hidden.split(n_rows), ids.split(n_rows), strict=True)
    ]
    logits = torch.cat(parts)
    return logits if bias is None else logits + bias[ids].float()


def _table(lm: LanguageModel, shared: _Prompt, features: Sequence[int], statistics: _Statistics) -> pl.DataFrame:
    log_tops = statistics.log_top.tolist()
    lost = [feature for feature, log_top in zip(features, log_tops, strict=True) if not math.isfinite(log_top - shared.log_top)]
    if lost:
        raise SettingsError(
            f"output score: {NOT_FINITE} where feature {lost[0]} (and {len(lost) - 1} more) steers, so there is nothing to rank: lower"
            " output_score.factor, or set model.dtype to float32"
        )
    score = (1 - statistics.rank.double() / lm.n_vocab) * statistics.probability
    columns = {
        "feature": list(features),
        "output_score": score.tolist(),
        "min_rank": statistics.rank.tolist(),
        "max_prob": statistics.probability.tolist(),
        "a_max": [float(shared.a_max)] * len(features),
        "delta_token_confidence": (shared.log_top - statistics.log_top).tolist(),
    }
    return pl.DataFrame(columns, schema=SCHEMA)
