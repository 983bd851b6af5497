"""What texts have at SAEs' hook points: sparse feature activations, one forward serving every layer, and the direction of what some texts
have and others have not."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.core.errors import NotFiniteError
from saesteer.core.tokens import TextTokens
from saesteer.engine.finite import fault
from saesteer.engine.hook_points import HookPoint, readings, sae_hook_point
from saesteer.engine.memory import Halving, forward_bytes, rows_that_fit
from saesteer.engine.models import MIN_ROWS, LanguageModel, check_length, fewest_texts, pad_rows, padded_ids, shape_matters
from saesteer.engine.saes import Sae, encode

ALGORITHM_VERSION = 2

LENGTH_STEP = 16
"""Texts are padded to the next multiple of this many tokens, so their shapes, and with them their numbers, do not depend on their
neighbours."""

MOST_ROWS = (32, 256)
"""Largest batch of texts on a CPU and on a GPU."""

ACTIVATIONS_AT_A_TIME = 2**26
"""Most feature activations (tokens times features) at a time."""

SCHEMA = pl.Schema(
    {
        "layer": pl.UInt16(),
        "text_id": pl.String(),
        "n_tokens": pl.UInt16(),
        "n_ordinary": pl.UInt16(),
        "token_index": pl.List(pl.UInt16),
        "feature": pl.List(pl.UInt32),
        "value": pl.List(pl.Float32),
    }
)


@torch.no_grad()
def sparse_activations(lm: LanguageModel, saes: Mapping[int, Sae], texts: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Active features of every token of every text, for the SAE of each layer in `saes`, at its own hook point.

    `texts` has text_id and token_ids (a list, beginning-of-sequence token first, see `core.tokens`). A row is one text at one layer:
    parallel lists of token position, feature and activation, by position, then feature. Position 0 (the beginning-of-sequence token; where
    there is none, a token that models treat much like it) and special tokens are left out; n_tokens counts them, n_ordinary does not.
    Padding is on the right, where causal attention cannot look back at it. Yields tables of one layer.
    """
    hook_points = [sae_hook_point(lm, layer, sae.meta) for layer, sae in sorted(saes.items())]
    check_length(lm, max(map(len, texts["token_ids"]), default=0))
    halving, special = Halving("activations", lm.device), special_ids(lm)
    lengths = (pl.col("token_ids").list.len().cast(pl.Int64) + LENGTH_STEP - 1) // LENGTH_STEP * LENGTH_STEP
    padded = texts.with_columns(padded_length=lengths.clip(LENGTH_STEP, lm.n_positions))  # also of a text without a token
    for length in padded["padded_length"].unique().sort():
        group = padded.filter(pl.col("padded_length") == length)

        def activations_of(part: slice, size: int, group: pl.DataFrame = group, length: int = length) -> list[pl.DataFrame]:
            token_ids = group["token_ids"][part].to_list()
            # Padding that no model takes for its padding token, about which some warn.
            ids = torch.full((size if shape_matters(lm) else len(token_ids), length), next(iter(token_ids[0]), 0))
            for row, tokens in enumerate(token_ids):
                ids[row, : len(tokens)] = torch.tensor(tokens)
            by_hook_point = zip(hook_points, readings(lm, ids.to(lm.device), hook_points), strict=True)
            return [
                table
                for hook_point, of_hook_point in by_hook_point
                for table in _sparse_tables(lm, group[part], special, saes[hook_point.layer], hook_point.layer, of_hook_point.read)
            ]

        row_bytes = forward_bytes(lm, length) + 4 * length * lm.d_model * len(hook_points)
        for tables in halving.over(group.height, rows_that_fit(row_bytes, lm.device, MOST_ROWS), activations_of):
            yield from tables


def special_ids(lm: LanguageModel) -> list[int]:
    """Tokens that are no text: those that the tokenizer names or marks as special, and those with which the model begins, ends or pads a
    text. Of the latter only added tokens: an id of the vocabulary proper may be nothing but a configuration class's default."""
    added, configs = lm.tokenizer.added_tokens_decoder, (lm.model.config.get_text_config(decoder=True), lm.model.generation_config)
    of_model = [getattr(config, f"{role}_token_id", None) for config in configs for role in ("bos", "eos", "pad")]
    named = {token for ids in of_model for token in (ids if isinstance(ids, list) else [ids])}
    marked = {token_id for token_id, token in added.items() if token.special}
    return sorted({*lm.tokenizer.all_special_ids, *marked, *(named & added.keys())})


def _sparse_tables(
    lm: LanguageModel, chunk: pl.DataFrame, special: list[int], sae: Sae, layer: int, residuals: Float[Tensor, "batch seq d_model"]
) -> Iterator[pl.DataFrame]:
    """The active features of a batch's texts, as many texts at a time as `ACTIVATIONS_AT_A_TIME` holds, and where shapes matter always as
    many. What is dense is let go before the next is encoded."""
    seq = residuals.shape[1]
    n_texts = min(len(residuals), max(-(-MIN_ROWS // seq), ACTIVATIONS_AT_A_TIME // (seq * sae.meta.n_features)))
    n_rows = n_texts if shape_matters(lm) else fewest_texts(lm, seq)
    for start in range(0, chunk.height, n_texts):
        part = slice(start, start + n_texts)
        yield _sparse_table(chunk[part], special, layer, encode(sae, pad_rows(residuals[part], n_rows)), sae.W_enc)


def _sparse_table(
    texts: pl.DataFrame,
    special: list[int],
    layer: int,
    activations: Float[Tensor, "batch seq n_features"],
    encoder: Float[Tensor, "d_model n_features"],
) -> pl.DataFrame:
    """The non-zero activations at each text's ordinary tokens, position 0 left out."""
    n_tokens, ordinary = texts["token_ids"].list.len(), np.zeros(activations.shape[:2], dtype=bool)[: len(texts)]
    for row, ids in enumerate(texts["token_ids"]):
        ordinary[row, 1 : len(ids)] = ~np.isin(ids[1:], special)
    active = activations[: len(texts)].nonzero(as_tuple=True)
    text, position, feature, value = (part.cpu().numpy() for part in (*active, activations[active].float()))
    counts = ordinary[text, position]
    text, position, feature, value = text[counts], position[counts], feature[counts], value[counts]
    if len(bad := text[~np.isfinite(value)]):
        raise NotFiniteError(fault(f"layer {layer}, text {texts['text_id'][int(bad[0])]}: feature activations are", encoder))
    ends = np.searchsorted(text, np.arange(1, len(texts)))
    columns = {
        "layer": [layer] * len(texts),
        "text_id": texts["text_id"],
        "n_tokens": n_tokens,
        "n_ordinary": ordinary.sum(axis=1),
        "token_index": np.split(position, ends),
        "feature": np.split(feature, ends),
        "value": np.split(value, ends),
    }
    return pl.DataFrame(columns).cast(SCHEMA)


@torch.no_grad()
def difference_of_means(
    lm: LanguageModel, hook_points: Sequence[HookPoint], having: Sequence[Sequence[int]], lacking: Sequence[Sequence[int]]
) -> list[Float[Tensor, " width"]]:
    """At each hook point the mean over all tokens of some texts, less that of others (as DiffMean's, P4, arXiv 2501.17148); the first token
    of a text, as a rule the beginning-of-sequence token, is left out."""
    means = [_means(lm, hook_points, texts) for texts in (having, lacking)]
    return [first - second for first, second in zip(*means, strict=True)]


def _means(lm: LanguageModel, hook_points: Sequence[HookPoint], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    sums, n_tokens = [torch.zeros(()) for _ in hook_points], 0
    for start in range(0, len(texts), MIN_ROWS):
        batch = texts[start : start + MIN_ROWS]
        ids = padded_ids(batch).to(lm.device)
        counted = torch.tensor([[0 < place < len(text) for place in range(ids.shape[1])] for text in batch], device=lm.device)
        for number, at in enumerate(readings(lm, ids, hook_points)):
            sums[number] = sums[number].to(lm.device) + at.value[counted].float().sum(dim=0)
        n_tokens += int(counted.sum())
    return [total / n_tokens for total in sums]


def decoder_cosines(sae: Sae, direction: Float[Tensor, " width"]) -> list[float]:
    """The cosine of each feature's decoder row with a direction."""
    cosines: list[float] = torch.nn.functional.cosine_similarity(sae.W_dec.float(), direction[None].to(sae.W_dec.device)).tolist()
    return cosines


@torch.no_grad()
def word_cosines(lm: LanguageModel, concept: Sequence[str], words: Sequence[str]) -> list[float]:
    """The cosine of each word with the words of a concept, by the model's input embeddings. Those of a word's tokens are averaged, and less
    the vocabulary's mean, which all have in common."""
    embeddings = lm.model.get_input_embeddings().weight.float()
    tokens = TextTokens(lm.tokenizer.backend_tokenizer).retokenise([f" {word}" for word in (*concept, *words)])
    vectors = torch.stack([embeddings[ids].mean(0) for ids in tokens]).nan_to_num() - embeddings.mean(0)
    mean = vectors[: len(concept)].mean(0, keepdim=True)
    cosines: list[float] = torch.nn.functional.cosine_similarity(vectors[len(concept) :], mean).tolist()
    return cosines
