"""The texts of fitted methods: FITS rows and wanted keys -> STEERED rows. Where a method abstains there is no text: null, with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import polars as pl

from saesteer.core.counter_rng import text_keys
from saesteer.core.tables.methods import NO_FIT, STEERED
from saesteer.engine.continuation import Sampling
from saesteer.engine.intervention_texts import steered_texts
from saesteer.engine.interventions import Addition, Intervention, PromptText, unpacked
from saesteer.engine.models import LanguageModel, check_length, prompt_token_ids
from saesteer.engine.saes import Sae

MOST_INTERVENTIONS = 512
"""Fits whose tensors are in memory at a time."""

_FIT = ["layer", "method", "concept_id"]


def method_texts(
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
    """STEERED rows of wanted keys of one layer, some at a time; `prompts` maps prefix_id to the prompt's text. `sae_features` is the
    setting of that name: where the methods that steer with an SAE feature's direction add it, and in multiples of what.

    A text's random numbers come from its concept, prompt and sample, not from its method and factor: methods are compared on the same
    draws, as are the strengths of one method.
    """
    joined = rows.join(fits.select(*_FIT, "kind", "tensors", "values"), on=_FIT, how="left", maintain_order="left")
    yield from _abstained(joined.filter(pl.col("kind").is_null()))
    given = joined.filter(pl.col("kind").is_not_null())
    order = given.select(_FIT).unique(maintain_order=True)
    for some in order.iter_slices(MOST_INTERVENTIONS):
        chunk = given.join(some, on=_FIT, how="semi", maintain_order="left")
        yield from _written(lm, sae, layer, chunk, prompts, sampling, seed, sae_features)


def _abstained(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    if not rows.is_empty():
        none = {"text": None, "n_tokens": 0, "stopped": False, "seconds": 0.0, "reason": NO_FIT}
        filled = rows.select(STEERED.keys).with_columns(pl.lit(value).alias(name) for name, value in none.items())
        yield filled.select(pl.col(name).cast(dtype) for name, dtype in STEERED.schema.items())


def _written(
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
        _placed(unpacked(kind, tensors, values, lm.device), sae_features)
        for kind, tensors, values in fits.select("kind", "tensors", "values").iter_rows()
    ]
    numbered = chunk.drop("tensors", "values").join(fits.select(_FIT).with_row_index("intervention"), on=_FIT, maintain_order="left")
    plain = {prefix_id: prompt_token_ids(lm, prompts[prefix_id]) for prefix_id in numbered["prefix_id"].unique()}
    ids = [
        _prompt_ids(lm, interventions[place], factor, prompts[prefix_id], plain[prefix_id], sampling.max_new_tokens)
        for place, factor, prefix_id in numbered.select("intervention", "factor", "prefix_id").iter_rows()
    ]
    distinct = {tuple(prompt): None for prompt in ids}
    places = {prompt: place for place, prompt in enumerate(distinct)}
    asked = numbered.with_row_index("row").with_columns(
        prompt=pl.Series([places[tuple(prompt)] for prompt in ids]), key=_random_keys(numbered)
    )
    columns = ["row", "intervention", "prompt", "factor", "key"]
    for texts in steered_texts(lm, sae, layer, asked.select(columns), interventions, [list(prompt) for prompt in places], sampling, seed):
        made = asked.select("row", *STEERED.keys).join(texts, on="row").with_columns(reason=pl.lit(None, pl.String))
        yield made.select(pl.col(name).cast(dtype) for name, dtype in STEERED.schema.items())


def _placed(one: Intervention, sae_features: str) -> Intervention:
    """An SAE feature's direction at the last position, in multiples of a_max, where that is P1's protocol; else as it was fitted."""
    if sae_features == "last_position" and isinstance(one, Addition) and one.features:
        return replace(one, scale=None, positions="last")
    return one


def _prompt_ids(lm: LanguageModel, one: Intervention, factor: str, prompt: str, plain: list[int], n_new_tokens: int) -> list[int]:
    """Token ids of a row's prompt: `plain`, the prompt's own, but where the intervention adds text to it."""
    return prompted_ids(lm, one, float(factor), prompt, n_new_tokens) if isinstance(one, PromptText) else plain


def _random_keys(rows: pl.DataFrame) -> pl.Series:
    """What a row's random numbers are made from, besides the seed."""
    parts = [f"{concept}/{prompt}/{sample}" for concept, prompt, sample in rows.select("concept_id", "prefix_id", "sample").iter_rows()]
    return pl.Series(text_keys(parts), dtype=pl.UInt64)


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
