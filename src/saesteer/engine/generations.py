"""Rows of generated texts by their keys: of single features (P1's sweep) and of fitted interventions (the comparison of methods)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from jaxtyping import UInt64

from saesteer.core.counter_rng import hex_keys, streams, text_keys
from saesteer.core.tables.steps import FEATURE_TEXT, FIT_TEXT, NO_FIT, TEXT_COLUMNS
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts, steered_texts_by_token
from saesteer.engine.interventions import Addition, Intervention, PromptText, unpacked
from saesteer.engine.models import LanguageModel, check_layer, check_length, prompt_token_ids
from saesteer.engine.saes import Sae, check_features

ALGORITHM_VERSION = 2

MOST_INTERVENTIONS = 512
"""Fits whose tensors are in the host's memory at a time; on a GPU are those of a batch."""

_FIT = ["layer", "method", "concept_id"]
_ROW = ["row", "intervention", "prompt", "factor", "stream"]
"""What `steered_texts` reads of a row."""


@torch.no_grad()
def feature_texts(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    prefixes: Mapping[str, str],
    sampling: Sampling,
    seed: int,
    batch: int | None = None,
) -> Iterator[pl.DataFrame]:
    """Continue prefixes while steering with single features as P1 (arXiv 2505.20063, section 3) does: `amplify` at the last position of
    every forward, from the last prompt token on, with a_max per row and step. Yields finished tables of up to `batch` rows.

    `rows` has feature, factor (decimal string, multiples of a_max), prefix_id (16 hexadecimal digits) and sample; `prefixes` maps prefix_id
    to text, which becomes a prompt in the model's format. The tables have the keys and the columns of a text. Random numbers come from
    every key.
    """
    wanted, interventions, prompts = _of_features(lm, sae, layer, rows, prefixes, seed)
    for texts in _texts(lm, sae, layer, wanted, interventions, prompts, sampling, FEATURE_TEXT, batch):
        yield texts.with_columns(seconds=pl.lit(None, pl.Float64))


def feature_texts_by_token(
    lm: LanguageModel, sae: Sae, layer: int, rows: pl.DataFrame, prefixes: Mapping[str, str], sampling: Sampling, seed: int
) -> Iterator[list[str | None]]:
    """The texts of `feature_texts` while they are written, after each token: of a few rows, whose prefixes have one length."""
    wanted, interventions, prompts = _of_features(lm, sae, layer, rows, prefixes, seed)
    yield from steered_texts_by_token(lm, sae, layer, wanted.select(_ROW), interventions, prompts, sampling)


def _of_features(
    lm: LanguageModel, sae: Sae, layer: int, rows: pl.DataFrame, prefixes: Mapping[str, str], seed: int
) -> tuple[pl.DataFrame, list[Intervention], list[list[int]]]:
    """Rows with what `steered_texts` wants, the interventions and the prompts that they name."""
    check_layer(lm, layer)
    features = rows["feature"].unique(maintain_order=True).to_list()
    check_features(features, sae.meta.n_features, f"the SAE of layer {layer}")
    prompts = _prompts(lm, rows, prefixes)
    interventions: list[Intervention] = [feature_addition(sae, feature) for feature in features]
    keys = (rows["feature"].to_numpy(), text_keys(rows["factor"]), hex_keys(rows["prefix_id"]), rows["sample"].to_numpy())
    wanted = rows.with_row_index("row").with_columns(
        layer=pl.lit(layer, pl.UInt16),
        intervention=_place(rows["feature"], features),
        prompt=_place(rows["prefix_id"], list(prompts)),
        stream=pl.Series(streams(seed, layer, *keys), dtype=pl.UInt64),
    )
    return wanted, interventions, list(prompts.values())


def fit_texts(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    fits: pl.DataFrame,
    prompts: Mapping[str, str],
    sampling: Sampling,
    seed: int,
    sae_features: str = "everywhere",
) -> Iterator[pl.DataFrame]:
    """Texts of FITS rows of one layer at the factors, prompts and samples of `rows`, some at a time; where a method abstains there is no
    text: null, with a reason. `prompts` maps prefix_id to the prompt's text. `sae_features` is the setting of that name: where the methods
    that steer with an SAE feature's direction add it, and in multiples of what.

    Random numbers come from a text's concept, prompt and sample, not from its method and factor: methods are compared on the same draws, as
    are the factors of one method.
    """
    joined = rows.join(fits.select(*_FIT, "kind", "tensors", "values"), on=_FIT, how="left", maintain_order="left")
    yield from _abstained(joined.filter(pl.col("kind").is_null()))
    given = joined.filter(pl.col("kind").is_not_null())
    for some in given.select(_FIT).unique(maintain_order=True).iter_slices(MOST_INTERVENTIONS):
        chunk = given.join(some, on=_FIT, how="semi", maintain_order="left")
        yield from _texts_of_fits(lm, sae, layer, chunk, prompts, sampling, seed, sae_features)


def _texts(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    wanted: pl.DataFrame,
    interventions: Sequence[Intervention],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    keys: Sequence[str],
    batch: int | None = None,
) -> Iterator[pl.DataFrame]:
    """The texts of rows (keys, and what `steered_texts` wants) with their keys."""
    for texts in steered_texts(lm, sae, layer, wanted.select(_ROW), interventions, prompts, sampling, batch):
        made = wanted.select("row", *keys).join(texts, on="row")
        yield made.select(*keys, *(pl.col(name).cast(column.dtype) for name, column in TEXT_COLUMNS.items()))


def _place(names: pl.Series, known: Sequence[int] | Sequence[str]) -> pl.Series:
    return names.replace_strict(list(known), list(range(len(known))), return_dtype=pl.Int64) if len(names) else names.cast(pl.Int64)


def _prompts(lm: LanguageModel, rows: pl.DataFrame, prefixes: Mapping[str, str]) -> dict[str, list[int]]:
    """Token ids of the prefixes that rows name."""
    names = rows["prefix_id"].unique(maintain_order=True).to_list()
    unknown = [name for name in names if name not in prefixes]
    if unknown:
        raise ValueError(f"prefix_id {unknown[0]} has no text: the prefixes given are {', '.join(prefixes)}")
    return {name: prompt_token_ids(lm, prefixes[name]) for name in names}


def _abstained(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    if not rows.is_empty():
        none = {"token_ids": None, "text": None, "n_tokens": 0, "stopped": False, "seconds": 0.0, "reason": NO_FIT}
        yield rows.select(*FIT_TEXT, *(pl.lit(none[name]).cast(column.dtype).alias(name) for name, column in TEXT_COLUMNS.items()))


def _texts_of_fits(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    chunk: pl.DataFrame,
    prompts: Mapping[str, str],
    sampling: Sampling,
    seed: int,
    sae_features: str,
) -> Iterator[pl.DataFrame]:
    fits = chunk.select(*_FIT, "kind", "tensors", "values").unique(subset=_FIT, keep="first", maintain_order=True)
    interventions = [
        placed(unpacked(kind, tensors, values), sae, sae_features)
        for kind, tensors, values in fits.select("kind", "tensors", "values").iter_rows()
    ]
    numbered = chunk.drop("tensors", "values").join(fits.select(_FIT).with_row_index("intervention"), on=_FIT, maintain_order="left")
    plain = _prompts(lm, numbered, prompts)
    ids = [
        tuple(_prompt_ids(lm, interventions[place], factor, prompts[prefix_id], plain[prefix_id], sampling.max_new_tokens))
        for place, factor, prefix_id in numbered.select("intervention", "factor", "prefix_id").iter_rows()
    ]
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(ids))}
    wanted = numbered.with_row_index("row").with_columns(
        prompt=pl.Series([places[prompt] for prompt in ids]),
        stream=pl.Series(streams(seed, _concept_prompt_sample(numbered)), dtype=pl.UInt64),
    )
    yield from _texts(lm, sae, layer, wanted, interventions, list(places), sampling, FIT_TEXT)


def feature_addition(sae: Sae, feature: int) -> Addition:
    """Steering with one feature as P1 (arXiv 2505.20063, section 3) does it: a multiple of a_max times its decoder row, at the last
    position."""
    return Addition(sae.W_dec[feature], None, "last", (feature,))


def placed(one: Intervention, sae: Sae, sae_features: str) -> Intervention:
    """An SAE feature's decoder row, whatever its norm, at the last position, in multiples of a_max, where that is P1's protocol (of several
    features their vector, at unit norm); else as it was fitted."""
    if sae_features == "last_position" and isinstance(one, Addition) and one.features:
        vector = sae.W_dec[one.features[0]].to(one.vector) if len(one.features) == 1 else one.vector
        return replace(one, vector=vector, scale=None, positions="last")
    return one


def _prompt_ids(lm: LanguageModel, one: Intervention, factor: str, prompt: str, plain: list[int], n_new_tokens: int) -> list[int]:
    """Token ids of a row's prompt: `plain`, the prompt's own, but where the intervention adds text to it."""
    return prompted_ids(lm, one, float(factor), prompt, n_new_tokens) if isinstance(one, PromptText) else plain


def prompted_ids(lm: LanguageModel, intervention: PromptText, factor: float, prompt_text: str, n_new_tokens: int = 0) -> list[int]:
    """Token ids of a prompt with the text of a factor put before it: after a space in a base model's running text, after an empty line in a
    user's turn. Refuses what leaves no room for `n_new_tokens` more."""
    texts = intervention.texts
    if factor not in range(1, len(texts) + 1):
        raise ValueError(f"prompting has texts for the factors 1 to {len(texts)}, not {factor}; change methods.factors.prompt")
    between = "\n\n" if lm.prompt_format == "chat" else " "
    ids = prompt_token_ids(lm, texts[int(factor) - 1] + between + prompt_text)
    try:
        check_length(lm, len(ids) + n_new_tokens)
    except ValueError as fault:
        raise ValueError(f"the text of factor {factor:g} before the prompt {prompt_text!r} makes it too long: {fault}") from fault
    return ids


def _concept_prompt_sample(rows: pl.DataFrame) -> UInt64[np.ndarray, " row"]:
    parts = [f"{concept}/{prompt}/{sample}" for concept, prompt, sample in rows.select("concept_id", "prefix_id", "sample").iter_rows()]
    return text_keys(parts)
