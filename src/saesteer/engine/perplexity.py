"""How likely a language model finds continuations of prefixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.core.tables import GENERATIONS, PERPLEXITY
from saesteer.core.tables.steps import NO_FIT
from saesteer.core.tokens import with_bos
from saesteer.engine.head import raw_logits, soft_capped
from saesteer.engine.memory import Halving, forward_bytes, rows_that_fit
from saesteer.engine.models import MIN_ROWS, LanguageModel, check_length, pad_rows, shape_matters

ALGORITHM_VERSION = 1

LENGTH_STEP = 4
"""Token sequences are padded to the next multiple of this length: few shapes, and none that depends on a row's neighbours."""

LOGITS_AT_A_TIME = (2**24, 2**28)
"""Most logits held at a time on a CPU and on a GPU, in float32."""

AT_A_TIME = 8192
"""Most rows of a frame."""

MOST_ROWS = (128, 1024)
"""Largest batch on a CPU and on a GPU."""

SCHEMA = pl.Schema({"row": pl.UInt32(), **{name: PERPLEXITY.schema[name] for name in ("mean_nll", "n_scored")}})


@dataclass(frozen=True)
class _Sequences:
    """Tokenised rows: ids, and which of them belong to the continuation."""

    ids: list[list[int]]
    scored: list[list[bool]]


def scored_prefix(prefix: str, prompt_format: str) -> str:
    """The text after which a generation is scored. A continuation (prompt_format "plain" of the model that wrote it) runs on from its
    prefix. A response ("chat") stands on the line after its instruction: plain text, because the model that scores it need not know the
    other's chat template, nor have one."""
    return prefix + "\n" if prompt_format == "chat" else prefix


def text_losses(lm: LanguageModel, texts: pl.DataFrame, prompts: Mapping[str, str], prompt_format: str) -> Iterator[pl.DataFrame]:
    """The PERPLEXITY rows of GENERATIONS rows, some at a time, one layer in each frame.

    The second model never sees what a method added to a prompt: `prompts` (prefix_id -> prompt; `prompt_format` of the model that wrote the
    text) are what the text is scored after. Null where the method abstains and where the text is empty.
    """
    unknown = set(texts["prefix_id"]) - set(prompts)
    if unknown:
        raise ValueError(
            f"there are texts with prefix_id {min(unknown)}, but no such prompt: generate again, or give the prompts of this run"
        )
    before = {name: scored_prefix(prompt, prompt_format) for name, prompt in prompts.items()}
    rows = texts.with_columns(prefix=pl.col("prefix_id").replace_strict(before, return_dtype=pl.String))
    for _, of_layer in rows.group_by("layer", maintain_order=True):
        for some in of_layer.iter_slices(AT_A_TIME):
            yield _losses(lm, some.with_row_index("row"))


def _losses(lm: LanguageModel, rows: pl.DataFrame) -> pl.DataFrame:
    losses = continuation_nll(lm, rows.filter(pl.col("text").is_not_null()))
    scored = rows.join(losses, on="row", how="left", maintain_order="left")
    abstains = pl.when(pl.col("text").is_null()).then(pl.lit(NO_FIT))
    reason = abstains.when(pl.col("mean_nll").is_null()).then(pl.lit("the continuation is empty"))
    return scored.select(*GENERATIONS.keys, "mean_nll", pl.col("n_scored").fill_null(0), reason=reason)


@torch.no_grad()
def continuation_nll(lm: LanguageModel, rows: pl.DataFrame, batch: int | None = None) -> pl.DataFrame:
    """Mean negative log-likelihood, in nats a token, of each text given its prefix; its exponential is the perplexity of the continuation.

    `rows` has row (a number of the caller's), prefix (`scored_prefix`) and text. Prefix and text are tokenised together as plain text, with
    the beginning-of-sequence token of the model's `bos` rule; scored are the tokens that end after the prefix. A text without any has a
    null. A row's number depends on its own text only. `batch` texts go together, fewer when memory runs out; None: as many as fit, for each
    length.
    """
    different = rows.select("prefix", "text").unique(maintain_order=True)
    nll = np.zeros(len(different))
    n_scored = np.zeros(len(different), dtype=np.int64)
    sequences = _tokenised(lm, different)
    check_length(lm, max(map(len, sequences.ids), default=0))
    halving = Halving("perplexity", lm.device)
    for length, places in _by_length(sequences):

        def summed(part: slice, size: int, length: int = length, places: Int[np.ndarray, " row"] = places) -> None:
            index = places[part]
            ids, scored = _padded(sequences, index, length, size if shape_matters(lm) else MIN_ROWS)
            sums = _scored_sum(lm, ids.to(lm.device), scored.to(lm.device))[: len(index)]
            nll[index], n_scored[index] = sums.cpu().numpy(), scored.sum(dim=1)[: len(index)].numpy()

        rows_at_a_time = batch or rows_that_fit(forward_bytes(lm, length) + 8 * length * lm.d_model, lm.device, MOST_ROWS)
        for _ in halving.over(len(places), rows_at_a_time, summed):
            pass
    mean = pl.when(pl.col("n_scored") > 0).then(pl.col("total") / pl.col("n_scored"))
    scores = different.with_columns(total=nll, n_scored=n_scored).with_columns(mean_nll=mean)
    return rows.join(scores, on=["prefix", "text"], how="left", maintain_order="left").select(SCHEMA.names()).cast(SCHEMA)


def _tokenised(lm: LanguageModel, rows: pl.DataFrame) -> _Sequences:
    texts = [prefix + text for prefix, text in zip(rows["prefix"], rows["text"], strict=True)]
    if not texts:
        return _Sequences([], [])
    encoded = lm.tokenizer(texts, return_offsets_mapping=True)
    ids, scored = [], []
    for tokens, offsets, start in zip(encoded["input_ids"], encoded["offset_mapping"], rows["prefix"].str.len_chars(), strict=True):
        whole = with_bos(tokens, lm.bos, lm.tokenizer.bos_token_id)
        ends = [0] * (len(whole) - len(tokens)) + [end for _, end in offsets]
        ids.append(whole)
        # The first token has nothing before it to be predicted from.
        scored.append([place > 0 and end > start for place, end in enumerate(ends)])
    return _Sequences(ids, scored)


def _by_length(sequences: _Sequences) -> Iterator[tuple[int, Int[np.ndarray, " row"]]]:
    """Padded lengths, and the places of the rows of each that have something to score."""
    lengths = np.array(
        [
            -(-len(ids) // LENGTH_STEP) * LENGTH_STEP if any(scored) else 0
            for ids, scored in zip(sequences.ids, sequences.scored, strict=True)
        ]
    )
    for length in np.unique(lengths[lengths > 0]):
        yield int(length), np.flatnonzero(lengths == length)


def _padded(
    sequences: _Sequences, index: Int[np.ndarray, " row"], length: int, n_slots: int
) -> tuple[Int[Tensor, "slot seq"], Bool[Tensor, "slot seq"]]:
    """Token ids and scored positions of some rows, in at least `n_slots` slots."""
    # Padded with a token that no model takes for its padding token, about which some would warn.
    ids = torch.full((max(len(index), n_slots), length), sequences.ids[index[0]][0])
    scored = torch.zeros(ids.shape, dtype=torch.bool)
    for slot, place in enumerate(index):
        ids[slot, : len(sequences.ids[place])] = torch.tensor(sequences.ids[place])
        scored[slot, : len(sequences.scored[place])] = torch.tensor(sequences.scored[place])
    return ids, scored


def _scored_sum(lm: LanguageModel, ids: Int[Tensor, "row seq"], scored: Bool[Tensor, "row seq"]) -> Float[Tensor, " row"]:
    """Sum over each row's scored tokens of -log p(token | what is before it)."""
    hidden = lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = scored[:, 1:]
    targets = ids[:, 1:][wanted]  # [token]
    sources = hidden[wanted]  # [token d_model]
    step = max(MIN_ROWS, LOGITS_AT_A_TIME[lm.device.type == "cuda"] // lm.n_vocab)
    parts = [_token_nll(lm, sources[start : start + step], targets[start : start + step], step) for start in range(0, len(targets), step)]
    per_position = torch.zeros(wanted.shape, dtype=torch.double, device=ids.device)
    per_position[wanted] = torch.cat(parts)
    return per_position.sum(dim=1)


def _token_nll(
    lm: LanguageModel, hidden: Float[Tensor, "token d_model"], targets: Int[Tensor, " token"], step: int
) -> Float[Tensor, " token"]:
    """-log p of each target; where shapes matter, the head sees `step` rows in any case."""
    rows = pad_rows(hidden, step) if shape_matters(lm) else hidden
    logits = soft_capped(lm, raw_logits(lm, rows))[: len(hidden)]
    return (logits.logsumexp(dim=1) - logits.gather(1, targets[:, None]).squeeze(1)).double()
