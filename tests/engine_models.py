"""Random tiny models of four families, a small tokenizer and a random JumpReLU SAE, all made in code."""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from model_families import RUN
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from tokenizers import decoders as token_decoders
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from saesteer.engine.attention import attention_on
from saesteer.engine.models import LanguageModel, language_model, load_language_model
from saesteer.engine.saes import TENSORS, Sae, SaeMeta

WORLD = Path(__file__).parents[1] / "data" / "world"
D_MODEL = 32
N_LAYERS = 4
N_FEATURES = 96
SYLLABLES = [first + vowel for first in "bdfgklmnprst" for vowel in "aeiou"]
WORDS = SYLLABLES + [one + two for one, two in zip(SYLLABLES, reversed(SYLLABLES), strict=True)]
FAMILIES = ("gemma2", "gemma2_short_window", "llama", "gpt_neox", "gpt2")
LIKE_OTHERS = ("llama", "gpt_neox")
"""Families that no line of the engine treats in another way than gemma2 and gpt2."""
WITH_LAYER_NORM = ("gpt_neox", "gpt2")
"""Those whose writing weights TransformerLens centres."""
FURTHER_FAMILIES = ("gemma3", "qwen3", "bloom", "opt", "cohere2", "granite", "qwen3_5_text")
"""Of the README's example of a model of one's own, and of other forms: blocks that put out tuples, blocks further inside, scaled
logits, linear attention. No line of the engine is for them."""


def tiny_tokenizer(template: str = "<bos> $A") -> PreTrainedTokenizerFast:
    """Words, each with a leading space or not, and single characters; adds <bos> unless the template has none."""
    pieces = ["<pad>", "<bos>", "<eos>", *(chr(code) for code in range(32, 127)), *WORDS, *(f" {word}" for word in WORDS)]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="?", continuing_subword_prefix=""))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[^A-Za-z]"), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<bos>", vocab["<bos>"])])
    tokenizer.decoder = token_decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def hf_model(family: str, d_model: int, n_layers: int, **config: Any) -> Any:
    """A random model of a family (transformers' own name), small heads, in its own numbers of attention where it has any."""
    config |= {"hidden_size": d_model, "num_hidden_layers": n_layers, "num_attention_heads": 4, "intermediate_size": 2 * d_model}
    if family in ("gemma2", "gemma3_text"):
        config |= {"query_pre_attn_scalar": d_model // 4, "attn_implementation": "eager"}
    if family in ("gemma2", "gemma3_text", "qwen3", "llama"):
        config |= {"num_key_value_heads": 2, "head_dim": d_model // 4}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **config))


OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 4096, "final_logit_softcapping": 5.0},
    "gemma2_short_window": {"model_type": "gemma2", "sliding_window": 4, "final_logit_softcapping": 5.0},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * (N_LAYERS // 2)},
    "gemma3_wide_window": {"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"] * (N_LAYERS // 2)},
    "phi3_short_window": {"model_type": "phi3", "num_key_value_heads": 2, "sliding_window": 21, "pad_token_id": 0},
    "mistral_wide_window": {"model_type": "mistral", "num_key_value_heads": 2},
    "gpt2": {"resid_pdrop": 0.0, "n_inner": 64},
}
"""What a tiny model's configuration has besides what all have, where it is not that of `model_families.RUN`."""


@cache
def tiny_model(family: str, seed: int = 0) -> LanguageModel:
    """A random float32 model of the family; norm weights are random too, so that leaving one out shows."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = {"vocab_size": len(tokenizer) + 3, "max_position_embeddings": 64}  # three logits without a token, as real models have
        config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.3, "attn_implementation": "eager"}
        config |= OWN.get(family, RUN.get(family, {}))
        model = hf_model(config.pop("model_type", family), D_MODEL, N_LAYERS, **config)
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.data = weight.data + 0.2 * torch.randn_like(weight.data)
            elif "emb" in name or "wte" in name or "wpe" in name:
                weight.data = torch.randn_like(weight.data) * 0.3
    model.set_attn_implementation(attention_on("cpu", model))
    return language_model(model, tokenizer)


def tiny_sae(
    layer: int,
    seed: int = 0,
    d_model: int = D_MODEL,
    n_features: int = N_FEATURES,
    hook_point: str = "resid_post",
    centred: bool = False,
) -> Sae:
    """A random JumpReLU SAE with unit decoder rows, with a share of its features active on residuals of this size."""
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(n_features, d_model, generator=generator)
    decoder /= decoder.norm(dim=1, keepdim=True)
    meta = SaeMeta("code", "0" * 64, 1, "jumprelu", hook_point, centred, layer, d_model, n_features, "0" * 64)
    return Sae(
        W_enc=decoder.T.contiguous() + 0.05 * torch.randn(d_model, n_features, generator=generator),
        b_enc=0.1 * torch.randn(n_features, generator=generator),
        threshold=0.3 * torch.rand(n_features, generator=generator),
        W_dec=decoder,
        b_dec=0.1 * torch.randn(d_model, generator=generator),
        meta=meta,
    )


def without_bos(lm: LanguageModel) -> LanguageModel:
    """The same model with a tokenizer that adds nothing, as GPT-2's does."""
    return language_model(lm.model, tiny_tokenizer("$A"))


def narrow(lm: LanguageModel) -> LanguageModel:
    model = copy.deepcopy(lm.model).to(torch.bfloat16)
    model.set_attn_implementation(attention_on("cpu", model))
    return language_model(model, lm.tokenizer)


def narrow_sae(sae: Sae) -> Sae:
    """As scripts load it: in the model's format."""
    return replace(sae, **{name: getattr(sae, name).to(torch.bfloat16) for name in TENSORS})


def save_model(lm: LanguageModel, path: Path) -> Path:
    """Write a model in Hugging Face's format."""
    lm.model.save_pretrained(path)
    lm.tokenizer.save_pretrained(path)
    return path


@contextmanager
def threads(n: int) -> Iterator[None]:
    """So many for operations on tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def shipped_model() -> LanguageModel:
    """The world's language model, through the code path of any other."""
    return load_language_model(WORLD / "model", "float32", "cpu")


@cache
def shipped_sae(layer: int) -> Sae:
    """The world's SAE of a layer, read without sae-lens (its files have b_dec folded already; test_saes compares both ways)."""
    source = WORLD / "saes" / f"layer_{layer:02d}"
    config = json.loads((source / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu"
    assert not config["apply_b_dec_to_input"]
    tensors = {name: tensor.float() for name, tensor in load_file(source / "sae_weights.safetensors").items()}
    meta = SaeMeta(source.name, "0" * 64, 1, "jumprelu", "resid_post", False, layer, config["d_in"], config["d_sae"], "0" * 64)
    return Sae(**tensors, meta=meta)


def model_and_sae(family: str, layer: int, hook_point: str = "resid_post") -> tuple[LanguageModel, Sae]:
    """A random model and SAE of a family, or the shipped ones when the family is "shipped"; the SAE as if trained at the hook point."""
    if family == "shipped":
        sae = shipped_sae(layer)
        return shipped_model(), replace(sae, meta=replace(sae.meta, hook_point=hook_point))
    return tiny_model(family), tiny_sae(layer, hook_point=hook_point)


def prompt_of(family: str) -> str:
    """A neutral prompt that the family's tokenizer knows."""
    return "From my experience," if family == "shipped" else "From ba be dibo tuda"


def dense(row: Mapping[str, Any], like: torch.Tensor) -> torch.Tensor:
    """The activations of a row of `sparse_activations` [position feature]."""
    activations = torch.zeros_like(like)
    activations[row["token_index"], row["feature"]] = torch.tensor(row["value"], dtype=like.dtype)
    return activations


def rows_of_grid(grid: Iterable[tuple[int, str, str, int]]) -> pl.DataFrame:
    """Rows that `feature_texts` continues: feature, factor, prefix and sample."""
    schema = {"feature": pl.UInt32, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32}
    return pl.DataFrame(list(grid), schema=schema, orient="row")


TINY = {f"{number:016x}": text for number, text in enumerate(["From ba be dibo", "ba", "tuda be", "From di do tuda be ba do"])}
"""Prefixes of several lengths that the tiny tokenizer knows."""


def sweep_rows(n: int, n_features: int = 96, seed: int = 0) -> pl.DataFrame:
    """n different rows over features, factors, prefixes of several lengths and samples."""
    grid = [
        (feature, factor, f"{prefix:016x}", sample)
        for sample in range(3)
        for feature in range(0, n_features, 7)
        for factor in ("0", "0.8", "2.5", "10")
        for prefix in range(4)
    ]
    order = np.random.default_rng(seed).permutation(len(grid))[:n]
    return rows_of_grid(grid[place] for place in order)
