"""How likely a language model finds continuations of prefixes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from transformers.cache_utils import Cache

from saesteer.core.texts import TEXT_KEYS
from saesteer.core.tokens import with_bos
from saesteer.engine.cache import MOST_PREFIXES, Prefixes
from saesteer.engine.continuation import buffer_length
from saesteer.engine.head import piecewise_nll, rows_of_pieces
from saesteer.engine.memory import Halving, forward_bytes, rows_that_fit
from saesteer.engine.models import MIN_ROWS, LanguageModel, check_length, fewest_texts, hidden_states, plain_token_ids, shape_matters

ALGORITHM_VERSION = 5

LENGTH_STEP = (4, 16)
"""What texts do not share is padded to the next multiple of this many tokens, on a CPU in float32 and where shapes matter: few shapes, and
none that depends on a row's neighbours."""

AT_A_TIME = (1024, 8192)
"""Most rows of a frame on a CPU and on a GPU: what is saved together, and what a kill can lose."""

MOST_ROWS = (128, 256)
"""Largest batch on a CPU and on a GPU."""

SCHEMA = pl.Schema({"row": pl.UInt32, "mean_nll": pl.Float64, "n_scored": pl.UInt16, "whole_text_nll": pl.Float64})


@dataclass(frozen=True)
class _Sequence:
    """A tokenised row."""

    ids: list[int]
    scored: list[bool]  # which of them belong to the continuation
    n_shared: int  # of the first ones, those that all texts after the prefix begin with, and that predict no other token

    @property
    def shared(self) -> tuple[int, ...]:
        return tuple(self.ids[: self.n_shared])

    @property
    def predicted_alike(self) -> tuple[int, ...]:
        """The shared tokens and the one after them, the last that they predict."""
        return tuple(self.ids[: self.n_shared + 1])


def scored_prefix(prefix: str, prompt_format: str) -> str:
    """The text after which a generation is scored. A continuation (prompt_format "plain" of the model that wrote it) runs on from its
    prefix. A response ("chat") stands on the line after its instruction: plain text, because the model that scores it need not know the
    other's chat template, nor have one."""
    return prefix + "\n" if prompt_format == "chat" else prefix


def text_losses(lm: LanguageModel, texts: pl.DataFrame, prompts: Mapping[str, str], prompt_format: str) -> Iterator[pl.DataFrame]:
    """The PERPLEXITY rows of GENERATIONS rows, some at a time, one layer in each frame.

    The second model never sees what a method added to a prompt: `prompts` (prefix_id -> prompt; `prompt_format` of the model that wrote the
    text) are what the text is scored after. Null where there is no text and where it is empty.
    """
    unknown = set(texts["prefix_id"]) - set(prompts)
    if unknown:
        raise ValueError(
            f"there are texts with prefix_id {min(unknown)}, but no such prompt: generate again, or give the prompts of this run"
        )
    before = {name: scored_prefix(prompt, prompt_format) for name, prompt in prompts.items()}
    prefixed = texts.with_columns(prefix=pl.col("prefix_id").replace_strict(before, return_dtype=pl.String))
    empty = pl.lit("the continuation is empty")
    reason = pl.when(pl.col("text").is_null()).then("reason").when(pl.col("mean_nll").is_null()).then(empty)
    for part in prefixed.sort("layer", maintain_order=True).iter_slices(AT_A_TIME[lm.device.type == "cuda"]):
        rows = part.with_row_index("row")
        losses = continuation_nll(lm, rows.filter(pl.col("text").is_not_null()))
        scored = rows.join(losses, on="row", how="left", maintain_order="left")
        losses_of_rows = scored.select(*TEXT_KEYS, "mean_nll", pl.col("n_scored").fill_null(0), "whole_text_nll", reason=reason)
        yield from losses_of_rows.partition_by("layer", maintain_order=True)


@torch.no_grad()
def continuation_nll(lm: LanguageModel, rows: pl.DataFrame) -> pl.DataFrame:
    """Mean negative log-likelihood, in nats a token, of each text given its prefix; its exponential is the perplexity of the continuation.

    `rows` has row (a number of the caller's), prefix (`scored_prefix`) and text. Prefix and text are tokenised together as plain text, with
    the beginning-of-sequence token of the model's `bos` rule; scored are the tokens that end after the prefix. A text without any has a
    null. `whole_text_nll` is the mean over prefix and text together, of every token but the first, which nothing predicts (Hugging Face's
    perplexity of a text, where the first is the beginning-of-sequence token). A row's numbers depend on its own text only. What texts begin
    with alike is run once.
    """
    different = rows.select("prefix", "text").unique(maintain_order=True)
    nll, whole = np.zeros(len(different)), np.zeros(len(different))
    sequences = _tokenised(lm, different)
    check_length(lm, max((len(sequence.ids) for sequence in sequences), default=0))
    halving, n_rows, prefixes = Halving("perplexity", lm.device), rows_of_pieces(lm), Prefixes(lm)
    before = _sums_before(lm, prefixes, [sequence.predicted_alike for sequence in sequences], n_rows)
    for (cached, length), places in _groups(lm, sequences):
        together = rows_that_fit(forward_bytes(lm, length, cached) + 8 * length * lm.d_model, lm.device, MOST_ROWS)

        def summed(
            part: slice, size: int, cached: int = cached, length: int = length, places: list[int] = places, together: int = together
        ) -> None:
            rows = [sequences[place] for place in places[part]]
            rows += rows[:1] * ((size if shape_matters(lm) else fewest_texts(lm, length)) - len(rows))
            ids, predicted, scored = _padded(rows, length)
            (cache,) = prefixes.caches([row.shared for row in rows], len(rows), cached, length)
            hidden = _hidden(lm, ids.to(lm.device), cache, [row.n_shared for row in rows])
            sums = _sums(lm, hidden, ids, (predicted, scored), max(MIN_ROWS, n_rows * size // together))
            whole[places[part]], nll[places[part]] = sums[:, : len(places[part])].cpu().numpy()

        for _ in halving.over(len(places), together, summed):
            pass
    whole += [before[sequence.predicted_alike] for sequence in sequences]
    n_scored = [sum(sequence.scored) for sequence in sequences]
    scores = different.with_columns(
        n_scored=pl.Series(n_scored, dtype=pl.Int64),
        mean_nll=_means(nll, n_scored),
        whole_text_nll=_means(whole, [len(sequence.ids) - 1 for sequence in sequences]),
    )
    return rows.join(scores, on=["prefix", "text"], how="left", maintain_order="left").select(SCHEMA.names()).cast(SCHEMA)


def _tokenised(lm: LanguageModel, rows: pl.DataFrame) -> list[_Sequence]:
    if rows.is_empty():
        return []
    prefixes = {prefix: plain_token_ids(lm, prefix) for prefix in rows["prefix"].unique()}
    texts = [prefix + text for prefix, text in rows.iter_rows()]
    encoded = lm.tokenizer(texts, return_offsets_mapping=True)
    sequences = []
    for tokens, offsets, prefix in zip(encoded["input_ids"], encoded["offset_mapping"], rows["prefix"], strict=True):
        ids = with_bos(tokens, lm.bos, lm.tokenizer.bos_token_id)
        ends = [0] * (len(ids) - len(tokens)) + [end for _, end in offsets]
        # The first token has nothing before it to be predicted from.
        scored = [place > 0 and end > len(prefix) for place, end in enumerate(ends)]
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, prefixes[prefix], strict=False)))
        first = scored.index(True) if any(scored) else len(ids)
        # Some families' layers of states go on from one by a single token only (transformers' Jamba, without a word).
        n_shared = 0 if any(lm.structure.linear) else max(0, min(alike, first) - 1)
        sequences.append(_Sequence(ids, scored, n_shared))
    return sequences


def _groups(lm: LanguageModel, sequences: Sequence[_Sequence]) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Places of the rows with more tokens than are predicted alike, by the length that shared tokens have in the caches and the padded
    number of the others; rows that share the same tokens one after the other."""
    step = LENGTH_STEP[shape_matters(lm)]

    def shape(place: int) -> tuple[int, int]:
        n_shared = sequences[place].n_shared
        length = min(-(-(len(sequences[place].ids) - n_shared) // step) * step, lm.n_positions - n_shared)
        return buffer_length(lm, n_shared + 1, length) - 1, length

    longer = (place for place, sequence in enumerate(sequences) if len(sequence.ids) > sequence.n_shared + 1)
    order = sorted(longer, key=lambda place: (shape(place), sequences[place].shared))
    for key, places in groupby(order, key=shape):
        yield key, list(places)


def _padded(sequences: Sequence[_Sequence], length: int) -> tuple[Int[Tensor, "row seq"], Bool[Tensor, "row seq"], Bool[Tensor, "row seq"]]:
    """The tokens that rows do not share, which of them are predicted from these, and which of those are scored."""
    # Padded with a token that no model takes for its padding token, about which some would warn.
    ids = torch.full((len(sequences), length), sequences[0].ids[0])
    predicted, scored = torch.zeros((2, *ids.shape), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        n = len(sequence.ids) - sequence.n_shared
        ids[row, :n] = torch.tensor(sequence.ids[sequence.n_shared :])
        predicted[row, 1:n] = True
        scored[row, :n] = torch.tensor(sequence.scored[sequence.n_shared :])
    return ids, predicted, scored


def _hidden(lm: LanguageModel, ids: Int[Tensor, "row seq"], cache: Cache, n_shared: Sequence[int]) -> Float[Tensor, "row seq d_model"]:
    """What the final norm puts out for tokens after those in the cache, of which the last `n_shared` are a row's own."""
    cached, mask, position_ids = cache.get_seq_length(), None, None
    if shape_matters(lm):
        before = cached - torch.tensor(list(n_shared), device=lm.device)[:, None]
        places = torch.arange(cached + ids.shape[1], device=lm.device)[None]
        mask, position_ids = (places >= before).long(), places[:, cached:] - before
    return hidden_states(lm, input_ids=ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True)


def _sums(
    lm: LanguageModel,
    hidden: Float[Tensor, "row seq d_model"],
    ids: Int[Tensor, "row seq"],
    masks: tuple[Bool[Tensor, "row seq"], Bool[Tensor, "row seq"]],
    n_rows: int,
) -> Float64[Tensor, "mask row"]:
    """Sum over each row's tokens of -log p(token | what is before it): those of the first mask, and those of the second, which are among
    them. Masks and ids in the host's memory."""
    predicted, scored = (mask[:, 1:] for mask in masks)
    row, before = predicted.nonzero(as_tuple=True)
    targets = ids[row, before + 1].to(lm.device)
    row, before = row.to(lm.device), before.to(lm.device)
    per_position = torch.zeros(ids.shape, dtype=torch.double, device=lm.device)
    per_position[row, before] = piecewise_nll(lm, hidden[row, before], targets, n_rows)
    of_scored = per_position.clone()
    of_scored[:, :-1].masked_fill_(~scored.to(lm.device), 0)
    return torch.stack([per_position.sum(dim=1), of_scored.sum(dim=1)])


def _sums_before(lm: LanguageModel, prefixes: Prefixes, beginnings: Iterable[tuple[int, ...]], n_rows: int) -> dict[tuple[int, ...], float]:
    """Of each sequence of token ids, the sum over tokens but the first of -log p(token | what is before it)."""
    sums = dict.fromkeys(beginnings, 0.0)
    longer = [ids for ids in sums if len(ids) > 1]
    for start in range(0, len(longer), MOST_PREFIXES):
        together = longer[start : start + MOST_PREFIXES]
        runs = prefixes.prefilled(ids[:-1] for ids in together)
        hidden = torch.cat([runs[ids[:-1]].hidden for ids in together])
        following = torch.tensor([token for ids in together for token in ids[1:]], device=lm.device)
        losses = piecewise_nll(lm, hidden, following, n_rows).split([len(ids) - 1 for ids in together])
        sums |= {ids: float(part.sum()) for ids, part in zip(together, losses, strict=True)}
    return sums


def _means(sums: Float64[np.ndarray, " text"], counts: Sequence[int]) -> pl.Series:
    """Sums over counts; null where there is nothing to take the mean of."""
    return pl.Series([total / n if n > 0 else None for total, n in zip(sums.tolist(), counts, strict=True)], dtype=pl.Float64)
