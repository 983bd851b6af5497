"""Rows of generated texts by their keys: of single features (P1's sweep) and of fitted interventions (the comparison of methods)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import polars as pl
import torch

from saesteer.core.counter_rng import hex_keys, streams, text_keys
from saesteer.core.errors import NotFiniteError
from saesteer.core.texts import FEATURE_TEXT, FIT_TEXT, NO_FIT
from saesteer.engine.continuation import Sampling
from saesteer.engine.finite import fault
from saesteer.engine.generate import TEXTS, steered_texts, steered_texts_by_token
from saesteer.engine.interventions import (
    DECAY,
    ActivationEdit,
    Addition,
    ConditionalClamp,
    DecayingAddition,
    Projection,
    PromptText,
    unpacked,
)
from saesteer.engine.models import LanguageModel, check_length, prompt_token_ids
from saesteer.engine.saes import Sae, check_features
from saesteer.engine.steering import Intervention
from saesteer.settings.base import canonical_factor

ALGORITHM_VERSION = 2

MOST_INTERVENTIONS = 512
"""Fits whose tensors are in the host's memory at a time; on a GPU are those of a batch."""

FIT = ["layer", "method", "concept_id"]
"""Keys of a fit."""
_TEXT = {name: dtype for name, dtype in TEXTS.items() if name != "row"}
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
    edit: str = "addition",
) -> Iterator[pl.DataFrame]:
    """Continue prefixes while steering with single features as P1 (arXiv 2505.20063, section 3) does: `amplify` at the last position of
    every forward, from the last prompt token on, with a_max per row and step. Yields tables as they are finished.

    `rows` has feature (a number; or text, `set_name` of several that are added at once), factor (decimal string, multiples of a_max, or of
    the factors of several), prefix_id (16 hexadecimal digits) and sample; `prefixes` maps prefix_id to text, which becomes a prompt in the
    model's format. The tables have the keys and the columns of a text. Random numbers come from every key. `edit` is the sweep's setting of
    that name: ablation, projection and clamp act at every position.
    """
    numbered, interventions, prompts = _of_features(lm, sae, layer, rows, prefixes, seed, edit)
    for texts in steered_texts(lm, sae, layer, numbered.select(_ROW), interventions, prompts, sampling):
        yield _with_keys(numbered, texts, FEATURE_TEXT).with_columns(seconds=pl.lit(None, pl.Float64))


def feature_texts_by_token(
    lm: LanguageModel,
    sae: Sae,
    layer: int,
    rows: pl.DataFrame,
    prefixes: Mapping[str, str],
    sampling: Sampling,
    seed: int,
    edit: str = "addition",
) -> Iterator[list[str]]:
    """The texts of `feature_texts` while they are written, after each token: of a few rows, whose prefixes have one length."""
    numbered, interventions, prompts = _of_features(lm, sae, layer, rows, prefixes, seed, edit)
    for growing in steered_texts_by_token(lm, sae, layer, numbered.select(_ROW), interventions, prompts, sampling):
        if None in growing.texts:
            raise NotFiniteError(fault(f"layer {layer}: logits are", lm.head.weight), growing.texts.index(None))
        yield [text for text in growing.texts if text is not None]


def _of_features(
    lm: LanguageModel, sae: Sae, layer: int, rows: pl.DataFrame, prefixes: Mapping[str, str], seed: int, edit: str = "addition"
) -> tuple[pl.DataFrame, list[Intervention], list[list[int]]]:
    """Rows with what `steered_texts` reads, and the interventions and prompts that they name."""
    features = rows["feature"].unique(maintain_order=True).to_list()
    prompts = _prompts(lm, rows, prefixes)
    keys: tuple[Any, ...] = (hex_keys(rows["prefix_id"]), rows["sample"].to_numpy())
    if rows.schema["feature"] == pl.String:
        sets = {name: features_of_set(name) for name in features}
        check_features([feature for of_name in sets.values() for feature in of_name], sae.meta.n_features, f"the SAE of layer {layer}")
        interventions: list[Intervention] = [features_addition(sae, of_name) for of_name in sets.values()]
        named = rows.select("feature", "factor").iter_rows()
        keys = (text_keys([set_name(sets[name], factor) for name, factor in named]), *keys)
    else:
        check_features(features, sae.meta.n_features, f"the SAE of layer {layer}")
        interventions = [feature_edit(sae, feature, edit) for feature in features]
        keys = (rows["feature"].to_numpy(), text_keys(rows["factor"]), *keys)
    number_of_feature, number_of_prompt = ({name: number for number, name in enumerate(names)} for names in (features, prompts))
    numbered = rows.with_row_index("row").with_columns(
        layer=pl.lit(layer, pl.UInt16),
        intervention=pl.Series([number_of_feature[feature] for feature in rows["feature"]], dtype=pl.Int64),
        prompt=pl.Series([number_of_prompt[prefix_id] for prefix_id in rows["prefix_id"]], dtype=pl.Int64),
        stream=pl.Series(streams(seed, layer, *keys), dtype=pl.UInt64),
    )
    if edit in ("ablation", "clamp"):  # at factor 0 these edit too, so for the unsteered text they edit no feature
        unsteered = pl.lit(len(features), pl.Int64)
        numbered = numbered.with_columns(intervention=pl.when(pl.col("factor") == "0").then(unsteered).otherwise("intervention"))
        interventions.append(_no_edit(edit))
    return numbered, interventions, list(prompts.values())


def set_name(features: Mapping[int, str | int | float], multiple: str | float = "1") -> str:
    """Several features that steer at once, each at a multiple of its factor, as a link of the served page writes them: `548*1.6,12*0.8`."""
    times = Decimal(canonical_factor(multiple))
    return ",".join(f"{feature}*{canonical_factor(Decimal(canonical_factor(factor)) * times)}" for feature, factor in features.items())


def features_of_set(name: str) -> dict[int, float]:
    """The features of a `set_name`, and their factors."""
    return {int(feature): float(factor) for feature, factor in (of.split("*") for of in name.split(","))}


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
    joined = rows.join(fits.select(*FIT, "kind", "tensors", "values"), on=FIT, how="left", maintain_order="left")
    abstained = joined.filter(pl.col("kind").is_null())
    if not abstained.is_empty():
        none = {"token_ids": None, "text": None, "n_tokens": 0, "stopped": False, "seconds": 0.0}
        columns = (pl.lit(none[name]).cast(dtype).alias(name) for name, dtype in _TEXT.items())
        yield abstained.select(*FIT_TEXT, *columns, reason=pl.lit(NO_FIT))
    fitted = joined.filter(pl.col("kind").is_not_null())
    for names in fitted.select(FIT).unique(maintain_order=True).iter_slices(MOST_INTERVENTIONS):
        chunk = fitted.join(names, on=FIT, how="semi", maintain_order="left")
        packed = chunk.unique(subset=FIT, keep="first", maintain_order=True).select("kind", "tensors", "values").iter_rows()
        interventions = [placed(unpacked(*parts), sae, sae_features) for parts in packed]
        numbered = chunk.drop("tensors", "values").join(names.with_row_index("intervention"), on=FIT, maintain_order="left")
        plain = _prompts(lm, numbered, prompts)
        ids = []
        for number, factor, prefix_id in numbered.select("intervention", "factor", "prefix_id").iter_rows():
            intervention, prompt = interventions[number], plain[prefix_id]
            if isinstance(intervention, PromptText):
                prompt = prompted_ids(lm, intervention, float(factor), prompts[prefix_id], sampling.max_new_tokens)
            ids.append(tuple(prompt))
        number_of_prompt = {prompt: number for number, prompt in enumerate(dict.fromkeys(ids))}
        cells = numbered.select("concept_id", "prefix_id", "sample").iter_rows()
        keys = text_keys([f"{concept}/{prefix_id}/{sample}" for concept, prefix_id, sample in cells])
        numbered = numbered.with_row_index("row").with_columns(
            prompt=pl.Series([number_of_prompt[prompt] for prompt in ids]), stream=pl.Series(streams(seed, keys), dtype=pl.UInt64)
        )
        called = names.select(pl.format("{}, concept {}", "method", "concept_id")).to_series().to_list()
        for texts in steered_texts(lm, sae, layer, numbered.select(_ROW), interventions, list(number_of_prompt), sampling, called=called):
            yield _with_keys(numbered, texts, FIT_TEXT)


def _with_keys(rows: pl.DataFrame, texts: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Texts with the keys of their rows."""
    columns = (pl.col(name).cast(dtype) for name, dtype in _TEXT.items())
    return rows.select("row", *keys).join(texts, on="row").select(*keys, *columns, reason=pl.lit(None, pl.String))


def _prompts(lm: LanguageModel, rows: pl.DataFrame, prefixes: Mapping[str, str]) -> dict[str, list[int]]:
    """Token ids of the prefixes that rows name."""
    names = rows["prefix_id"].unique(maintain_order=True).to_list()
    unknown = [name for name in names if name not in prefixes]
    if unknown:
        raise ValueError(f"prefix_id {unknown[0]} has no text: the prefixes given are {', '.join(prefixes)}")
    return {name: prompt_token_ids(lm, prefixes[name]) for name in names}


def _no_edit(edit: str) -> Intervention:
    """An edit that changes nothing, of a given edit's kind, so that the two share a batch."""
    none = torch.tensor([], dtype=torch.long)
    return ConditionalClamp(none, None) if edit == "clamp" else ActivationEdit(none, torch.zeros(0))


def feature_edit(sae: Sae, feature: int, edit: str) -> Intervention:
    """What the setting `sweep.edit` does with a feature."""
    if edit == "ablation":
        return ActivationEdit(torch.tensor([feature]), torch.zeros(1))
    if edit == "projection":
        return Projection(torch.nn.functional.normalize(sae.W_dec[feature].float(), dim=0))
    if edit == "clamp":
        return ConditionalClamp(torch.tensor([feature]), None)
    if edit == "decay":
        return DecayingAddition(sae.W_dec[feature], None, DECAY, (feature,))
    return feature_addition(sae, feature)


def feature_addition(sae: Sae, feature: int) -> Addition:
    """Steering with one feature as P1 (arXiv 2505.20063, section 3) does it: a multiple of a_max times its decoder direction, at the last
    position."""
    return Addition(sae.W_dec[feature], None, "last", (feature,))


def features_addition(sae: Sae, factors: Mapping[int, float]) -> Addition:
    """Steering with several features of one SAE at once, each at its own factor: at factor 1 the sum of what each adds by itself."""
    vector = torch.stack([factor * sae.W_dec[feature] for feature, factor in factors.items()]).sum(0)
    return Addition(vector, None, "last", tuple(factors))


def placed(intervention: Intervention, sae: Sae, sae_features: str) -> Intervention:
    """An SAE feature's decoder direction, whatever its norm, with the sign that was fitted, at the last position, in multiples of a_max,
    where that is P1's protocol (of several features their vector, at unit norm); else as it was fitted."""
    if sae_features == "last_position" and isinstance(intervention, Addition) and intervention.features:
        features, vector = intervention.features, intervention.vector
        if len(features) == 1:
            row = sae.W_dec[features[0]].to(vector)
            vector = row if float(row @ vector) >= 0 else -row
        return replace(intervention, vector=vector, scale=None, positions="last")
    return intervention


def text_of_factor(intervention: PromptText, factor: float) -> str:
    """The text that stands before a prompt at a factor."""
    texts = intervention.texts
    if factor not in range(1, len(texts) + 1):
        raise ValueError(
            f"prompting has texts for the factors 1 to {len(texts)}, not {factor}; change methods.factors.prompt (prompt_search, of_method)"
        )
    return texts[int(factor) - 1]


def prompted_ids(lm: LanguageModel, intervention: PromptText, factor: float, prompt_text: str, n_new_tokens: int = 0) -> list[int]:
    """Token ids of a prompt with the text of a factor put before it: after a space in a base model's running text, after an empty line in a
    user's turn. Refuses what leaves no room for `n_new_tokens` more."""
    between = "\n\n" if lm.prompt_format == "chat" else " "
    ids = prompt_token_ids(lm, text_of_factor(intervention, factor) + between + prompt_text)
    try:
        check_length(lm, len(ids) + n_new_tokens)
    except ValueError as fault:
        raise ValueError(f"the text of factor {factor:g} before the prompt {prompt_text!r} makes it too long: {fault}") from fault
    return ids
