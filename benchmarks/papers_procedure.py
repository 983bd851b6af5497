"""The procedure of P1 (arXiv 2505.20063) as its public program runs it, written anew from its description and frozen: what we are compared
with.

Output score, feature by feature: model and SAE moved to the device; a forward hook encodes every position of the prompt with the sae-lens
SAE, twice (once for the reconstruction error, in float64); the whole prompt is run, with gradients recorded; all logits of all positions; a
softmax, a full sort, and one search through the vocabulary for each top logit-lens token; model and SAE moved back; the accelerator's
cache emptied and garbage collected, twice.

Sweep, text by text: Hugging Face's `generate` at batch size 1 with the same hook, sampling, 20 tokens, stop string "."; a collection per
feature.

`cleaned_output_scores` is the same without moves, gradients, cache emptying and collections.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def amplifying_hook(model: Any, sae: Any, layer: int, feature: int, factor: float) -> Iterator[None]:
    """Raise one feature's code by factor times the largest code at the last position; decode; add the SAE's error back (in float64)."""

    def hook(_module: Any, _args: Any, output: Any) -> Tensor:
        residual = output[0] if isinstance(output, tuple) else output
        codes = sae.encode(residual)
        with torch.no_grad():
            error = residual.to(torch.float64) - sae.decode(sae.encode(residual)).to(torch.float64)
        codes = codes.clone()
        codes[:, -1, feature] += factor * codes[:, -1].max().item()
        return (sae.decode(codes).to(torch.float64) + error).to(torch.float32)

    handle = model.model.layers[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _score(logits: Tensor, top_logit_lens_tokens: Sequence[int]) -> float:
    """(1 - smallest rank / vocabulary) * largest probability, over the top logit-lens tokens."""
    probabilities = torch.softmax(logits, dim=0).detach().cpu()
    order = torch.argsort(probabilities, descending=True)
    ranks = [(order == token).nonzero(as_tuple=True)[0].item() for token in top_logit_lens_tokens]
    return (1 - min(ranks) / len(probabilities)) * probabilities[list(top_logit_lens_tokens)].max().item()


def _collect_everything() -> None:
    torch.cuda.empty_cache()
    gc.collect()


def output_scores(
    model: Any, tokenizer: Any, sae: Any, layer: int, lens: dict[int, list[int]], prompt: str, factor: float, device: str
) -> dict[int, float]:
    """Output score of each feature in `lens` (feature -> its top logit-lens tokens), as the program does it."""
    scores = {}
    for feature, top_logit_lens_tokens in lens.items():
        model, sae = model.to(device), sae.to(device)
        inputs = tokenizer(prompt, return_tensors="pt").to(device)
        with amplifying_hook(model, sae, layer, feature, factor):
            logits = model(**inputs).logits[0, -1]
        scores[feature] = _score(logits, top_logit_lens_tokens)
        model, sae = model.cpu(), sae.cpu()
        _collect_everything()
        _collect_everything()
    return scores


@torch.no_grad()
def cleaned_output_scores(
    model: Any, tokenizer: Any, sae: Any, layer: int, lens: dict[int, list[int]], prompt: str, factor: float, device: str
) -> dict[int, float]:
    """The same without what a careful programmer would take out first: moves, gradients, cache emptying, garbage collection."""
    inputs = tokenizer(prompt, return_tensors="pt").to(device)
    scores = {}
    for feature, top_logit_lens_tokens in lens.items():
        with amplifying_hook(model, sae, layer, feature, factor):
            logits = model(**inputs).logits[0, -1]
        scores[feature] = _score(logits, top_logit_lens_tokens)
    return scores


@torch.no_grad()
def steered_token_ids(
    model: Any, tokenizer: Any, sae: Any, layer: int, features: Sequence[int], factor: float, prefixes: Sequence[str], **generation: Any
) -> dict[tuple[int, str], list[int]]:
    """New tokens for each feature and prefix, one `generate` a text."""
    texts = {}
    for feature in features:
        with amplifying_hook(model, sae, layer, feature, factor):
            for prefix in prefixes:
                inputs = tokenizer(prefix, return_tensors="pt")
                output = model.generate(
                    **inputs, max_new_tokens=20, stop_strings=".", tokenizer=tokenizer, pad_token_id=tokenizer.eos_token_id, **generation
                )
                texts[feature, prefix] = output[0, inputs["input_ids"].shape[1] :].tolist()
        _collect_everything()
    return texts
