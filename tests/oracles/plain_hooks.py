"""Slow, obvious versions of what the engine does: one row at a time, whole forwards, plain hooks, whole softmaxes, written from the paper.

P1 is arXiv 2505.20063. Models are Hugging Face's; an SAE is its five tensors.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def family_parts(model: Any) -> tuple[Any, Any]:
    """(decoder blocks, final norm) by the family's own names."""
    gpt2, final = ("transformer.h", "transformer.ln_f"), ("model.layers", "model.final_layernorm")
    names = {
        **dict.fromkeys(("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gptj"), gpt2),
        **dict.fromkeys(("bamba", "jamba", "persimmon", "phi"), final),
        **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), ("model.layers", "model.embedding_norm")),
        "mpt": ("transformer.blocks", "transformer.norm_f"),
        "biogpt": ("biogpt.layers", "biogpt.layer_norm"),
        "xglm": ("model.layers", "model.layer_norm"),
        "opt": ("model.decoder.layers", "model.decoder.final_layer_norm"),
        "gpt_neox": ("gpt_neox.layers", "gpt_neox.final_layer_norm"),
    }
    blocks, norm = names.get(model.config.model_type, ("model.layers", "model.norm"))
    return model.get_submodule(blocks), model.get_submodule(norm)


@contextmanager
def at_hook_point(model: Any, layer: int, hook_point: str, change: Any) -> Iterator[Any]:
    """The model with the residual at a block's output (resid_post) or input (resid_pre) replaced by `change` of it."""

    def after(_module: Any, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    block = family_parts(model)[0][layer]
    if hook_point == "resid_pre":
        handle = block.register_forward_pre_hook(lambda _module, args: (change(args[0]), *args[1:]))
    else:
        handle = block.register_forward_hook(after)
    try:
        yield model
    finally:
        handle.remove()


def code_of(sae: Any, residual: Tensor) -> Tensor:
    """JumpReLU code of one residual [d_model], less its mean where the SAE is centred."""
    if sae.meta.centred:
        residual = residual - sum(residual.tolist()) / len(residual)
    pre = residual @ sae.W_enc + sae.b_enc
    return torch.tensor([p if p > t else 0.0 for p, t in zip(pre.tolist(), sae.threshold.tolist(), strict=True)])


def steered(sae: Any, residual: Tensor, feature: int, factor: float) -> Tensor:
    """P1 section 3: the feature's code raised by factor * a_max, decoded, the SAE's error added back (float64). What the SAE is not shown,
    the mean where it is centred, is error."""
    code = code_of(sae, residual).double()
    decoder, bias = sae.W_dec.double(), sae.b_dec.double()
    error = residual.double() - (code @ decoder + bias)
    code[feature] += factor * code.max()
    return (code @ decoder + bias + error).float()


@contextmanager
def steering_hook(model: Any, sae: Any, layer: int, feature: int, factor: float) -> Iterator[None]:
    """Steers the last position of every forward, for one row."""
    if sae.meta.hook_point not in ("resid_pre", "resid_post"):
        from oracles import inner_hook_points  # which reads this module

        with inner_hook_points.hooked(model, layer, sae.meta.hook_point, inner_hook_points.amplified(sae, feature, factor)):
            yield
        return

    def change(residual: Tensor) -> Tensor:
        residual = residual.clone()
        residual[0, -1] = steered(sae, residual[0, -1], feature, factor)
        return residual

    with at_hook_point(model, layer, sae.meta.hook_point, change):
        yield


@torch.no_grad()
def steered_next_logits(model: Any, sae: Any, layer: int, feature: int, factor: float, token_ids: Sequence[int]) -> Tensor:
    """Next-token logits [vocab] of a whole steered forward."""
    with steering_hook(model, sae, layer, feature, factor):
        return model(torch.tensor([list(token_ids)])).logits[0, -1]


def output_score(
    model: Any, sae: Any, layer: int, feature: int, factor: float, token_ids: Sequence[int], lens: Sequence[int], n_tokens: int
) -> dict[str, float]:
    """P1 section 3: (1 - min rank / |V|) * max probability over the top logit-lens tokens, rank 0 the likeliest of the first `n_tokens`
    rows of the head, which have a token."""
    probabilities = torch.softmax(steered_next_logits(model, sae, layer, feature, factor, token_ids).double(), dim=0)
    order = torch.argsort(probabilities[:n_tokens], descending=True).tolist()
    rank = min(order.index(token) for token in lens)
    probability = max(float(probabilities[token]) for token in lens)
    return {"output_score": (1 - rank / len(order)) * probability, "min_rank": rank, "max_prob": probability}


@torch.no_grad()
def delta_token_confidence(model: Any, sae: Any, layer: int, feature: int, factor: float, token_ids: Sequence[int]) -> float:
    """arXiv 2510.03659: log max p(base) - log max p(steered) at the next token, in nats; base is a forward without any hook."""
    base = torch.softmax(model(torch.tensor([list(token_ids)])).logits[0, -1].double(), dim=0)
    steered = torch.softmax(steered_next_logits(model, sae, layer, feature, factor, token_ids).double(), dim=0)
    return math.log(float(base.max())) - math.log(float(steered.max()))


@torch.no_grad()
def lens_logits(model: Any, direction: Tensor) -> Tensor:
    """P1 section 3: lm_head(final_norm(decoder row)), no soft cap [vocab]."""
    return model.get_output_embeddings()(family_parts(model)[1](direction[None]))[0]


@torch.no_grad()
def generated(
    model: Any, sae: Any, layer: int, feature: int, factor: float, token_ids: Sequence[int], n_new: int, ending: list[int]
) -> list[int]:
    """Hugging Face's greedy `generate` with the steering hook, one row: the new tokens."""
    with steering_hook(model, sae, layer, feature, factor):
        ids = torch.tensor([list(token_ids)])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=n_new,
            do_sample=False,
            eos_token_id=ending,
            pad_token_id=0,
            top_k=None,
            top_p=None,
            temperature=None,
        )
    return out[0, len(token_ids) :].tolist()


@torch.no_grad()
def sampled(
    model: Any,
    sae: Any,
    layer: int,
    feature: int,
    factor: float,
    token_ids: Sequence[int],
    numbers: Sequence[float],
    temperature: float,
    top_k: int,
) -> list[int]:
    """One token per number, without a cache: each step runs the whole text, steered at the last prompt position and at all after it.

    The token is where the running sum of softmax(logits / temperature) over the top_k, in token id order, first exceeds the number.
    """
    ids = list(token_ids)

    def change(residual: Tensor) -> Tensor:
        residual = residual.clone()
        for place in range(len(token_ids) - 1, len(ids)):
            residual[0, place] = steered(sae, residual[0, place], feature, factor)
        return residual

    for number in numbers:
        with at_hook_point(model, layer, sae.meta.hook_point, change):
            logits = model(torch.tensor([ids])).logits[0, -1].double() / temperature
        kept = sorted(torch.argsort(logits, descending=True)[:top_k].tolist())
        weights = [math.exp(logits[token] - logits.max()) for token in kept]
        sums = [math.fsum(weights[: place + 1]) for place in range(len(kept))]
        ids.append(next(token for token, running in zip(kept, sums, strict=True) if running > number * sums[-1]))
    return ids[len(token_ids) :]


@torch.no_grad()
def residuals(model: Any, token_ids: Sequence[int], layer: int, hook_point: str = "resid_post") -> Tensor:
    """Residual at a hook point at every position [seq d_model], of one text alone."""
    captured: list[Tensor] = []

    def keep(residual: Tensor) -> Tensor:
        captured.append(residual[0])
        return residual

    with at_hook_point(model, layer, hook_point, keep):
        model(torch.tensor([list(token_ids)]))
    return captured[0]


def token_losses(model: Any, token_ids: Sequence[int], start: int = 1) -> Tensor:
    """-log p of every token from place `start` on, given those before it (float64), in one forward of the text alone."""
    log_p = model(torch.tensor([list(token_ids)])).logits[0].double().log_softmax(dim=1)
    places = range(start, len(token_ids))
    return -log_p[[place - 1 for place in places], [token_ids[place] for place in places]]


@torch.no_grad()
def greedy(model: Any, token_ids: Sequence[int], n_new: int, ending: Sequence[int] = ()) -> list[int]:
    """The likeliest tokens after a text, to one that ends it; each step runs the whole text, without a cache."""
    ids = list(token_ids)
    for _ in range(n_new):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in ending:
            break
    return ids[len(token_ids) :]


@torch.no_grad()
def continuation_nll(model: Any, tokenizer: Any, prefix: str, text: str) -> tuple[float | None, int]:
    """Mean -log p over the tokens that end after the prefix, which is found by adding up the lengths of the tokens' own texts."""
    ids = tokenizer(prefix + text)["input_ids"]
    end, losses = 0, []
    for place, (token, loss) in enumerate(zip(ids, [0.0, *token_losses(model, ids).tolist()], strict=False)):
        end += 0 if token in tokenizer.all_special_ids else len(token_text(tokenizer, token))
        if place and end > len(prefix):
            losses.append(loss)
    return (math.fsum(losses) / len(losses), len(losses)) if losses else (None, 0)


def whole_text_nll(model: Any, tokenizer: Any, text: str) -> float | None:
    """Mean -log p over all tokens of a text but the first, as Hugging Face's perplexity metric has it: cross entropy of shifted labels."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    if ids.shape[1] < 2:
        return None
    return torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].double(), ids[0, 1:]).item()


def token_text(tokenizer: Any, token: int) -> str:
    """A token's text with its space."""
    return tokenizer.convert_ids_to_tokens(token).replace("▁", " ")
