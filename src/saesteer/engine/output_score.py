"""Output score: does steering with a feature promote the tokens that the feature stands for? P1 (arXiv 2505.20063), section 3."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from saesteer.engine.amplify import amplify
from saesteer.engine.finite import check_finite, rows_named
from saesteer.engine.head import logit_chunks, raw_logits, soft_capped
from saesteer.engine.hook_points import HookPoint, Place, hidden_after_prompt, reading, sae_hook_point
from saesteer.engine.memory import Halving, forward_bytes, rows_that_fit
from saesteer.engine.models import MIN_ROWS, LanguageModel, Prefill, pad_columns, pad_rows, plain_token_ids, prefill, shape_matters
from saesteer.engine.saes import Sae, check_features, checked_meta, decoder_blocks, largest_activation, largest_activation_in_file

ALGORITHM_VERSION = 3

VOCABULARY_CHUNK = 2048
"""Logits computed at a time for each row."""

MOST_ROWS = (512, 4096)
"""Largest batch on a CPU and on a GPU: beyond it nothing gets faster (a CPU's caches are full; a GPU no longer waits for launches)."""

READ_ROWS = 4096
"""Decoder rows read from a file, or gathered, at a time."""

GATHERED_AT_A_TIME = 2**22
"""Most numbers of head rows gathered at a time, for the top logit-lens tokens' own logits."""

SCHEMA = pl.Schema(
    {
        "feature": pl.UInt32,
        "output_score": pl.Float64,
        "min_rank": pl.UInt32,
        "max_prob": pl.Float64,
        "delta_token_confidence": pl.Float64,
        "a_max": pl.Float64,
    }
)


@dataclass(frozen=True)
class _Prompt:
    """The unsteered model at the prompt's last position, which all features of a layer share."""

    run: Prefill
    place: Place
    value: Float[Tensor, "1 width"]  # at the place
    past: Float[Tensor, "1 d_model"] | None  # hook_points.Reading
    a_max: Float[Tensor, " 1"]
    log_top: float  # log of the likeliest next token's probability


@torch.no_grad()
def output_scores(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    features: Sequence[int],
    top_logit_lens_token_ids: Int[Tensor, "feature k"],
    prompt: str,
    factor: float,
) -> pl.DataFrame:
    """Output score of each feature: steer the prompt's last position at the SAE's hook point of `layer` with factor * a_max * W_dec[f],
    read the next-token distribution p.

    S_out = (1 - min_rank / |V|) * max_prob over the feature's top logit-lens tokens; rank = number of tokens with a larger logit, so 0 is
    the likeliest. V is the tokenizer's vocabulary: rows of the head without a token have no rank, though a share of the probability.
    `a_max` is the largest feature activation of what the SAE reads there, unsteered, in the SAE's units; the same for every feature,
    because the prompt is. The prompt is always plain text, as in P1's program, also for a model that answers in a chat template: it is the
    beginning of a sentence to go on with, which a user's turn would turn into something to answer, and so it measures the feature's effect
    on running text, comparable between models.

    delta_token_confidence = log max p(unsteered) - log max p(steered), in nats (arXiv 2510.03659), of the same steering.
    """
    check_features(features, sae.meta.n_features, f"the SAE of layer {layer}")
    unsteered = _unsteered(lm, sae_hook_point(lm, layer, sae.meta), prompt, lambda read: largest_activation(sae, read))
    blocks = (sae.W_dec[ids] for ids in torch.tensor(list(features), dtype=torch.long, device=lm.device).split(READ_ROWS))
    return pl.concat([pl.DataFrame(schema=SCHEMA), *_scored(lm, unsteered, features, blocks, top_logit_lens_token_ids, factor)])


@torch.no_grad()
def output_scores_from_file(
    lm: LanguageModel,
    path: Path,
    layer: int,
    features: Sequence[int],
    top_logit_lens_token_ids: Int[Tensor, "feature k"],
    prompt: str,
    factor: float,
) -> Iterator[pl.DataFrame]:
    """`output_scores` of a converted SAE that stays in its file, in finished frames of up to a batch: the encoder is read once in blocks,
    decoder rows ahead of the computing, so that memory grows with neither the SAE nor the number of features. The SAE's numbers are used as
    they are stored, in float32, whatever the model's format."""
    meta = checked_meta(path)
    unsteered = _unsteered(lm, sae_hook_point(lm, layer, meta), prompt, lambda read: largest_activation_in_file(path, read))
    blocks = decoder_blocks(path, features, lm.device, READ_ROWS)
    yield from _scored(lm, unsteered, features, blocks, top_logit_lens_token_ids, factor)


def _unsteered(lm: LanguageModel, hook_point: HookPoint, prompt: str, a_max: Callable[[Tensor], Tensor]) -> _Prompt:
    """Run the prompt, unsteered."""
    token_ids = plain_token_ids(lm, prompt)
    run, at_hook_point = prefill(lm, token_ids), reading(lm, torch.tensor([token_ids], device=lm.device), hook_point)
    value, past = at_hook_point.value[:, -1], None if at_hook_point.past is None else at_hook_point.past[:, -1]
    hidden = hidden_after_prompt(lm, run, hook_point.place, value, past)
    log_top = soft_capped(lm, raw_logits(lm, hidden)).double().log_softmax(dim=1).amax()
    return _Prompt(run, hook_point.place, value, past, a_max(pad_rows(at_hook_point.read[:, -1]))[:1], float(log_top))


def _scored(
    lm: LanguageModel,
    unsteered: _Prompt,
    features: Sequence[int],
    blocks: Iterable[Float[Tensor, "row d_model"]],
    lens: Int[Tensor, "feature k"],
    factor: float,
) -> Iterator[pl.DataFrame]:
    """The rows of features whose decoder rows come in blocks, in frames of up to a batch."""
    row_bytes = forward_bytes(lm, 1, unsteered.run.position) + 20 * VOCABULARY_CHUNK
    rows = rows_that_fit(row_bytes, lm.device, MOST_ROWS)
    halving = Halving("output score", lm.device)
    first = 0
    for block in blocks:
        after = first + len(block)
        frame = partial(_frame, lm, unsteered, features[first:after], block, lens[first:after], factor)
        yield from halving.over(len(block), rows, frame)
        first = after


def _frame(
    lm: LanguageModel,
    unsteered: _Prompt,
    features: Sequence[int],
    directions: Float[Tensor, "row d_model"],
    lens: Int[Tensor, "row k"],
    factor: float,
    part: slice,
    size: int,
) -> pl.DataFrame:
    """Steer with the directions of a part and tabulate. Where shapes matter, every forward has the batch's `size`."""
    n_rows = size if shape_matters(lm) else MIN_ROWS
    direction, lens = pad_rows(directions[part], n_rows), pad_rows(lens[part].to(lm.device), n_rows)
    factors = torch.full((len(direction),), factor, dtype=unsteered.a_max.dtype, device=lm.device)
    steered = amplify(unsteered.value.expand(len(direction), -1), direction, factors, unsteered.a_max.expand(len(direction)))
    ids = list(features[part])
    with rows_named(lambda row: f"output score of feature {ids[row]}, factor {factor:g}"):
        statistics = _statistics(lm, hidden_after_prompt(lm, unsteered.run, unsteered.place, steered, unsteered.past), lens)
        rank, probability, log_top = (values[: len(ids)] for values in statistics)
        check_finite("probabilities are", log_top, lm.head.weight)
    columns = {
        "feature": ids,
        "output_score": ((1 - rank.double() / lm.n_tokens) * probability).tolist(),
        "min_rank": rank.tolist(),
        "max_prob": probability.tolist(),
        "a_max": [float(unsteered.a_max)] * len(ids),
        "delta_token_confidence": (unsteered.log_top - log_top).tolist(),
    }
    return pl.DataFrame(columns, schema=SCHEMA)


def _statistics(
    lm: LanguageModel, hidden: Float[Tensor, "row d_model"], lens: Int[Tensor, "row k"]
) -> tuple[Int[Tensor, " row"], Float64[Tensor, " row"], Float64[Tensor, " row"]]:
    """Statistics of each row's next-token distribution: rank and probability of the likeliest top logit-lens token, and the log of the
    likeliest token's probability. One pass over the vocabulary in chunks, in float32; sums over chunks in float64.

    The soft cap is monotone, so ranks are counted on raw logits; the top logit-lens token itself is left out of its count, because the
    chunk's arithmetic may differ from the gathered one in the last bit.
    """
    best, where = _gathered_logits(lm, hidden, lens).max(dim=1, keepdim=True)  # [row 1]
    best_id = lens.gather(1, where)
    rank = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    largest, sums = [], []  # of each chunk: its largest logit, and exponentials relative to that, summed
    for start, logits in logit_chunks(lm, hidden, VOCABULARY_CHUNK):
        larger = (logits > best) & lm.has_token[start : start + logits.shape[1]]
        inside = (best_id >= start) & (best_id < start + logits.shape[1])
        itself = larger.gather(1, (best_id - start).clamp(0, logits.shape[1] - 1)) & inside
        rank += larger.sum(dim=1) - itself.squeeze(1).long()
        capped = soft_capped(lm, logits)
        largest.append(capped.amax(dim=1))
        sums.append(pad_columns((capped - largest[-1][:, None]).exp_(), 0.0).sum(dim=1))
    tops = torch.stack(largest, dim=1).double()  # [row chunk]
    log_sum = (torch.stack(sums, dim=1).double().log() + tops).logsumexp(dim=1)
    return rank, (soft_capped(lm, best).squeeze(1) - log_sum).exp(), tops.amax(dim=1) - log_sum


def _gathered_logits(lm: LanguageModel, hidden: Float[Tensor, "row d_model"], ids: Int[Tensor, "row k"]) -> Float[Tensor, "row k"]:
    """Raw logits of a few tokens per row, in float32."""
    bias = getattr(lm.head, "bias", None)
    n_rows = max(MIN_ROWS, GATHERED_AT_A_TIME // (ids.shape[1] * lm.d_model))
    pairs = zip(hidden.split(n_rows), ids.split(n_rows), strict=True)
    logits = torch.cat([(lm.head.weight[row_ids].float() * rows.float()[:, None]).sum(dim=2) for rows, row_ids in pairs])
    return logits if bias is None else logits + bias[ids].float()
