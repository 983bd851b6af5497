"""Load a causal language model; read its residual stream; run it from a prepared residual.

Everything goes through the model's own code: blocks are bypassed by overriding the `forward` of their instances, so masks, rotary
embeddings, layer types and the final norm are Hugging Face's, and no family needs a line of its own. Blocks are those of transformers 5,
which return a tensor.

No forward runs below `MIN_ROWS` rows: matrix kernels change for very few rows, and a row's result would then depend on how many neighbours
it had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import Cache, DynamicLayer

from saesteer.files import safetensors_fault

MIN_ROWS = 32
"""Fewest rows in a forward; smaller batches are padded and the padding thrown away."""

SITES = ("resid_post",)
"""Residual sites that can be read and steered: the output of a decoder block."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its parts found: decoder blocks, output head, tokenizer."""

    model: Any
    tokenizer: Any
    blocks: nn.ModuleList
    head: nn.Module
    final_logit_softcapping: float | None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.head.weight.shape[1])

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @property
    def n_vocab(self) -> int:
        """Rows of the head: the number of logits, which may exceed the tokenizer's entries."""
        return int(self.head.weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.head.weight.dtype


def load_language_model(path: Path, dtype: str, device: str) -> LanguageModel:
    """Load model and tokenizer from a folder in Hugging Face's format (safetensors only, nothing fetched), refusing damaged weights by
    name."""
    _check_safetensors(path)
    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, dtype),
        attn_implementation="eager",
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    absent = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    if absent:
        raise ValueError(
            f"{path}: weights of {absent[0]} (and {len(absent) - 1} more) are missing or of another shape; fetch the model again"
        )
    for name, weight in model.named_parameters():
        if bool(weight.isnan().any()):
            raise ValueError(f"{path}: tensor {name} contains NaN; fetch or train the model again")
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return language_model(model.to(device), tokenizer)


def _check_safetensors(path: Path) -> None:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{path}: no *.safetensors file here; a model folder in Hugging Face's format with safetensors weights is needed"
        )
    for file in files:
        if fault := safetensors_fault(file):
            raise ValueError(f"{file}: not a readable safetensors file ({fault}); fetch or copy it again")


def language_model(model: Any, tokenizer: Any) -> LanguageModel:
    """Find the parts of an already loaded Hugging Face causal language model, and put it into evaluation mode."""
    config = model.config.get_text_config(decoder=True)
    for scale in ("logit_scale", "logits_scaling"):
        if getattr(config, scale, None) not in (None, 1, 1.0):
            raise ValueError(f"{type(model).__name__} scales its logits ({scale} = {getattr(config, scale)}), which is not supported")
    found = [child for child in model.base_model.children() if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers]
    if len(found) != 1:
        raise ValueError(f"{type(model).__name__}: expected one list of {config.num_hidden_layers} decoder blocks, found {len(found)}")
    softcapping = getattr(config, "final_logit_softcapping", None)
    model.eval().requires_grad_(False)
    return LanguageModel(model, tokenizer, found[0], model.get_output_embeddings(), softcapping)


def block_residual(output: Any) -> Tensor:
    """The residual in a decoder block's output, which is a tensor or a tuple that starts with it: the one place where the site resid_post
    is read."""
    return output[0] if isinstance(output, tuple) else output


def with_block_residual(output: Any, residual: Tensor) -> Any:
    """A decoder block's output with its residual replaced: the one place where the site resid_post is written."""
    return (residual, *output[1:]) if isinstance(output, tuple) else residual


def check_layer(lm: LanguageModel, layer: int) -> None:
    """Refuse a layer that the model does not have."""
    if not 0 <= layer < lm.n_layers:
        raise ValueError(f"layer {layer} does not exist: the model has layers 0 to {lm.n_layers - 1}")


def check_length(lm: LanguageModel, n_tokens: int) -> None:
    """Refuse more tokens than the model has positions for."""
    limit = lm.model.config.get_text_config(decoder=True).max_position_embeddings
    if n_tokens > limit:
        raise ValueError(f"{n_tokens} tokens were asked for, but the model takes at most {limit}; use shorter texts or fewer new tokens")


def pad_rows(rows: Tensor, n_rows: int = MIN_ROWS) -> Tensor:
    """Repeat the first row until there are at least `n_rows`, so that every forward sees enough of them."""
    missing = n_rows - rows.shape[0]
    return rows if missing <= 0 else torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])])


@contextmanager
def _overridden(blocks: list[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Give the block instances another `forward`, and take it away again whatever happens."""
    earlier = [block.__dict__.get("forward") for block in blocks]
    for block in blocks:
        block.forward = forward
    try:
        yield
    finally:
        for block, own in zip(blocks, earlier, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own


def _pass_through(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return hidden_states


@contextmanager
def stopped_after(lm: LanguageModel, layer: int) -> Iterator[None]:
    """Within the context, blocks after `layer` hand their input on and cost nothing."""
    check_layer(lm, layer)
    with _overridden(list(lm.blocks[layer + 1 :]), _pass_through):
        yield


@contextmanager
def spliced(lm: LanguageModel, layer: int, rows: Float[Tensor, "row d_model"]) -> Iterator[None]:
    """Within the context, blocks before `layer` do nothing and block `layer` puts out `rows` (one position a row) instead of computing."""
    check_layer(lm, layer)
    prepared = rows[:, None]  # [row 1 d_model]
    with _overridden(list(lm.blocks[:layer]), _pass_through), _overridden([lm.blocks[layer]], lambda *_args, **_kwargs: prepared):
        yield


@dataclass(frozen=True)
class Prefill:
    """A prompt run once: keys and values of positions 0..T-2 per layer, and the last token, which every later use feeds itself."""

    keys: tuple[Tensor, ...]  # n_layers x [1 kv_head T-1 head_dim]; empty for a prompt of one token
    values: tuple[Tensor, ...]
    last_token: int
    position: int  # of the last token, T-1


@torch.no_grad()
def prefill(lm: LanguageModel, token_ids: list[int]) -> Prefill:
    """Run positions 0..T-2 of a prompt once and keep their keys and values, so that each later step is one token wide."""
    if not token_ids:
        raise ValueError("a prompt needs at least one token; give the tokenizer a beginning-of-sequence token or the prompt some text")
    *earlier, last = token_ids
    if not earlier:
        return Prefill((), (), last, 0)
    # Plain layers also where attention has a sliding window: the mask cuts the window, and all positions stay aligned.
    cache = Cache(layers=[DynamicLayer() for _ in lm.blocks])
    ids = torch.tensor([earlier], device=lm.device)
    lm.model.base_model(input_ids=pad_rows(ids), past_key_values=cache, use_cache=True)
    keys = tuple(layer.keys[:1].clone() for layer in cache.layers)
    values = tuple(layer.values[:1].clone() for layer in cache.layers)
    return Prefill(keys, values, last, len(earlier))


def _expanded_cache(lm: LanguageModel, prompt: Prefill, n_rows: int) -> Cache:
    """The prompt's cache for `n_rows` rows, as views: `update` concatenates into new tensors, so the prompt's own are never written."""
    layers = [DynamicLayer() for _ in lm.blocks]
    for layer, keys, values in zip(layers, prompt.keys, prompt.values, strict=False):
        layer.lazy_initialization(keys, values)
        layer.keys = keys.expand(n_rows, -1, -1, -1)
        layer.values = values.expand(n_rows, -1, -1, -1)
    return Cache(layers=layers)


@torch.no_grad()
def spliced_hidden(lm: LanguageModel, prompt: Prefill, layer: int, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Place rows as block `layer`'s output at the prompt's last position; return what the final norm puts out there, one row each."""
    padded = pad_rows(rows.to(lm.dtype))
    cache = _expanded_cache(lm, prompt, padded.shape[0])
    position_ids = torch.full((padded.shape[0], 1), prompt.position, device=lm.device)
    with spliced(lm, layer, padded):
        output = lm.model.base_model(inputs_embeds=padded[:, None], position_ids=position_ids, past_key_values=cache, use_cache=True)
    return output.last_hidden_state[: rows.shape[0], -1]


def final_norm(lm: LanguageModel, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """The model's final norm: a splice into the last block's output, hence without a line per model family."""
    return spliced_hidden(lm, Prefill((), (), 0, 0), lm.n_layers - 1, rows)


@torch.no_grad()
def residuals_after(
    lm: LanguageModel, token_ids: Int[Tensor, "row seq"], layers: Sequence[int]
) -> dict[int, Float[Tensor, "row seq d_model"]]:
    """The residual after each of the given blocks (resid_post), in one forward that stops after the last of them."""
    captured: dict[int, Tensor] = {}

    def capture(layer: int) -> Callable[..., None]:
        return lambda _module, _args, output: captured.__setitem__(layer, block_residual(output)[: token_ids.shape[0]])

    with stopped_after(lm, max(layers)):
        handles = [lm.blocks[layer].register_forward_hook(capture(layer)) for layer in layers]
        try:
            lm.model.base_model(input_ids=pad_rows(token_ids), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    return captured


def residual_after(lm: LanguageModel, token_ids: Int[Tensor, "row seq"], layer: int) -> Float[Tensor, "row seq d_model"]:
    """The residual after block `layer` (resid_post) at every position; blocks after it are not run."""
    check_layer(lm, layer)
    return residuals_after(lm, token_ids, [layer])[layer]


def soft_capped(lm: LanguageModel, logits: Tensor) -> Tensor:
    """Raw head outputs as the model's own logits: cap * tanh(logits / cap) where the model has a cap."""
    cap = lm.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap


def raw_logits(lm: LanguageModel, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """The head applied to final hidden rows, without soft cap, at no fewer than `MIN_ROWS` rows."""
    return lm.head(pad_rows(hidden))[: hidden.shape[0]]


def logit_chunks(lm: LanguageModel, hidden: Float[Tensor, "row d_model"], chunk: int) -> Iterator[tuple[int, Float[Tensor, "row part"]]]:
    """Raw logits (no soft cap) in pieces of the vocabulary, each with its first token id: memory stays at rows x chunk."""
    padded = pad_rows(hidden)
    bias = getattr(lm.head, "bias", None)
    for start in range(0, lm.n_vocab, chunk):
        part = slice(start, start + chunk)
        logits = nn.functional.linear(padded, lm.head.weight[part], None if bias is None else bias[part])
        yield start, logits[: hidden.shape[0]]


def prompt_token_ids(lm: LanguageModel, text: str) -> list[int]:
    """Token ids of a prompt as the tokenizer makes them for the model, beginning-of-sequence token included where it adds one."""
    return [int(token) for token in lm.tokenizer(text)["input_ids"]]
