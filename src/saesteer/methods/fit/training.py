"""Training on texts: the loss of a language model on what they say, batches in a seeded order, and the two learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from saesteer.engine.head import raw_logits, rows_of_logits, scaled, token_nll
from saesteer.engine.models import LanguageModel
from saesteer.engine.sites import Place, hidden_after
from saesteer.methods.fit.problem import Text, output_mask, padded_ids

ALGORITHM_VERSION = 1

Item = TypeVar("Item")


def text_loss(lm: LanguageModel, texts: Sequence[Text]) -> Float[Tensor, ""]:
    """Mean over tokens of -log p(token | what is before it), of what the texts say (context is read, not scored), in nats. The caller
    installs what is to be trained; gradients flow to it."""
    return token_losses(lm, texts).mean()


def token_losses(lm: LanguageModel, texts: Sequence[Text]) -> Float[Tensor, " token"]:
    """-log p(token | what is before it) of each token that the texts say, text after text, in nats; gradients flow through it."""
    if any(text.n_context == 0 for text in texts):
        raise ValueError("a text without context has a first token that nothing predicts: give it a beginning-of-sequence token at least")
    ids = padded_ids(lm, texts)  # [text seq]
    hidden = lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    # Found on the host, which knows the lengths: the device need not be waited for.
    row, at = (index.to(ids.device) for index in output_mask(texts, torch.device("cpu")).nonzero(as_tuple=True))
    return nn.functional.cross_entropy(logits_with_gradients(lm, hidden[row, at - 1]), ids[row, at], reduction="none")


@torch.no_grad()
def summed_losses(
    lm: LanguageModel,
    place: Place,
    value: Float[Tensor, "text seq width"],
    past: Float[Tensor, "text seq d_model"] | None,
    ids: Int[Tensor, "text seq"],
    counted: Bool[Tensor, "text seq"],
) -> Float64[Tensor, " text"]:
    """Sum over each text's counted tokens of -log p(token | what is before it), in nats, when this value lies at a
    place (sites.hidden_after)."""
    hidden = hidden_after(lm, place, value, past)
    text, position = counted.nonzero(as_tuple=True)
    per_position = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
    per_position[text, position] = token_nll(lm, hidden[text, position - 1], ids[text, position], rows_of_logits(lm))
    return per_position.sum(dim=1)


def logits_with_gradients(lm: LanguageModel, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
    """The model's own logits of final hidden rows, soft cap included, in float32; gradients flow through them."""
    logits, cap = scaled(lm, raw_logits(lm, hidden).float()), lm.structure.final_logit_softcapping
    return logits if cap is None else cap * torch.tanh(logits / cap)  # head.soft_capped writes in place, which gradients forbid


def shuffled_batches(texts: Sequence[Item], size: int, epochs: int, generator: torch.Generator) -> Iterator[list[Item]]:
    """Every text (or its number) once an epoch, in a new order each time, `size` together."""
    for _ in range(epochs):
        order = torch.randperm(len(texts), generator=generator).tolist()
        for start in range(0, len(order), size):
            yield [texts[place] for place in order[start : start + size]]


def n_batches(texts: Sequence[Item], size: int, epochs: int) -> int:
    """How many batches `shuffled_batches` gives."""
    return epochs * -(-len(texts) // size)


def linear_decay(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate falling in a straight line to 0 over the steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / n_steps))


@dataclass(frozen=True)
class Recipe:
    """How adapters and whole models are trained: AdamW without weight decay, its rate falling in a straight line to 0."""

    learning_rate: float
    batch: int  # texts in a forward
    accumulated: int  # forwards in a step
    epochs: int
    largest_gradient: float = float("inf")  # norm that a step's gradient is cut to


@torch.enable_grad()
def train(
    parameters: Sequence[Tensor],
    loss_of: Callable[[Sequence[Text]], Tensor],
    texts: Sequence[Text],
    recipe: Recipe,
    generator: torch.Generator,
) -> list[float]:
    """Change parameters in place so that the loss of texts falls; give back each step's mean loss before it."""
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    a_step = recipe.batch * recipe.accumulated
    decay = linear_decay(optimizer, n_batches(texts, a_step, recipe.epochs))
    losses: list[Tensor] = []
    for together in shuffled_batches(texts, a_step, recipe.epochs, generator):
        parts = [together[start : start + recipe.batch] for start in range(0, len(together), recipe.batch)]
        losses.append(torch.stack([_backward(loss_of(part) / len(parts)) for part in parts]).sum())
        nn.utils.clip_grad_norm_(parameters, recipe.largest_gradient)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
    return torch.stack(losses).tolist()


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()
