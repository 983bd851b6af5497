"""Training on texts: the loss of a language model on what they say, gradient descent in a seeded order, and the learning rate and number of
epochs that held-out texts choose, alike for every method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isfinite
from typing import Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor, nn

from saesteer.engine.head import raw_logits, rows_of_logits, scaled, token_nll
from saesteer.engine.interventions import Intervention, Nothing
from saesteer.engine.models import LanguageModel
from saesteer.engine.sites import Place, Site, hidden_after, reading
from saesteer.methods.fit.problem import Abstains, Problem, Text, output_mask, padded_ids, text_batches
from saesteer.settings.recipes import Recipe

ALGORITHM_VERSION = 3

Item = TypeVar("Item")

PATIENCE = 4
"""Epochs without a lower held-out loss, or with a higher one than the best rate so far had at each, after which a rate is given up."""

log = logging.getLogger(__name__)


def text_loss(lm: LanguageModel, texts: Sequence[Text]) -> Float[Tensor, ""]:
    """Mean over tokens of -log p(token | what is before it), of what the texts say (context is read, not scored), in nats. The caller
    installs what is to be trained; gradients flow to it."""
    return token_losses(lm, texts).mean()


def token_losses(lm: LanguageModel, texts: Sequence[Text]) -> Float[Tensor, " token"]:
    """-log p(token | what is before it) of each token that the texts say, text after text, in nats; gradients flow through it."""
    ids = padded_ids(lm, texts)  # [text seq]
    return _said_losses(lm, texts, ids, lm.model.base_model(input_ids=ids, use_cache=False).last_hidden_state)


def _said_losses(
    lm: LanguageModel, texts: Sequence[Text], ids: Int[Tensor, "text seq"], hidden: Float[Tensor, "text seq d_model"]
) -> Float[Tensor, " token"]:
    if any(text.n_context == 0 for text in texts):
        raise ValueError("a text without context has a first token that nothing predicts: give it a beginning-of-sequence token at least")
    # Found on the host, which knows the lengths: the device need not be waited for.
    row, at = (index.to(ids.device) for index in output_mask(texts, torch.device("cpu")).nonzero(as_tuple=True))
    return nn.functional.cross_entropy(logits_with_gradients(lm, hidden[row, at - 1]), ids[row, at], reduction="none")


@dataclass(frozen=True, eq=False)
class ReadText:
    """A training text with what the unsteered model has at a site at each of its positions: training that changes nothing before the site
    need not run the blocks before it again."""

    text: Text
    value: Float[Tensor, "seq width"]
    past: Float[Tensor, "seq d_model"] | None  # of hook_z: the residual that goes past it


def read_texts(lm: LanguageModel, site: Site, texts: Sequence[Text]) -> list[ReadText]:
    """Run texts up to a site, `TEXTS_AT_A_TIME` together."""
    read = []
    for batch in text_batches(tuple(texts)):
        made = reading(lm, padded_ids(lm, batch), site)
        for row, text in enumerate(batch):
            n = len(text.ids)
            read.append(ReadText(text, made.value[row, :n], None if made.past is None else made.past[row, :n]))
    return read


def losses_behind(
    lm: LanguageModel, site: Site, some: Sequence[ReadText], change: Callable[[Tensor], Tensor] = lambda value: value
) -> Float[Tensor, " token"]:
    """`token_losses` of texts read at the site when what lies there [text seq width] goes through `change`; only the blocks behind it run,
    and gradients flow through them."""
    texts = [one.text for one in some]
    value = nn.utils.rnn.pad_sequence([one.value for one in some], batch_first=True)
    pasts = [one.past for one in some if one.past is not None]
    past = nn.utils.rnn.pad_sequence(pasts, batch_first=True) if pasts else None
    return _said_losses(lm, texts, padded_ids(lm, texts), hidden_after(lm, site.place, change(value), past))


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


@dataclass(frozen=True)
class Trainee(Generic[Item]):
    """What gradient descent changes in place, and what it lowers."""

    parameters: Sequence[Tensor]
    losses: Callable[[Sequence[Item], float], Float[Tensor, " token"]]
    """Each token's loss on some texts when this share of the steps is done; held-out texts have share 0."""
    result: Callable[[], Intervention]
    """Steering with the parameters as they are."""
    after_step: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Trained:
    """A trained intervention, and how it was trained."""

    intervention: Intervention
    learning_rate: float
    n_epochs: int
    loss_before: float | None = None  # nats a token of held-out texts, untrained; None where none were held out
    loss_after: float | None = None  # at the learning rate and epoch chosen, before training again on all texts


Start = Callable[[Problem, torch.Generator], Trainee[Item]]


def trained(problem: Problem, method: str, start: Start[Item], *groups: Sequence[Item]) -> Trained:
    """Train by the method's recipe on all texts of all groups, at the learning rate and for the number of epochs that have the lowest loss
    on held-out texts (a share of each group) after training on the others; of equals the smaller. Where no rates are given to choose
    from, as the recipe says. Every training begins with what `start` gives for the same random numbers."""
    recipe = problem.training.recipes[method]
    rates = problem.training.learning_rates
    as_published = Trained(Nothing(), recipe.learning_rate, recipe.epochs)
    choice = _chosen(problem, method, start, groups, [replace(recipe, learning_rate=rate) for rate in rates]) if rates else as_published
    generator = problem.generator(method)
    trainee = start(problem, generator)
    everything = [item for group in groups for item in group]
    final = replace(recipe, learning_rate=choice.learning_rate)
    losses = [loss for epoch in islice(trained_epochs(trainee, everything, final, generator), choice.n_epochs) for loss in epoch]
    rate, n_steps = final.learning_rate, len(losses)
    log.info("%s, %s: loss %.3f before, %.3f after %d steps at rate %g", method, problem.concept, losses[0], losses[-1], n_steps, rate)
    if not isfinite(losses[-1]):
        raise Abstains(f"training at learning rate {rate:g} diverges")
    with torch.no_grad():
        return replace(choice, intervention=trainee.result())


def _chosen(
    problem: Problem,
    method: str,
    start: Start[Item],
    groups: Sequence[Sequence[Item]],
    recipes: Sequence[Recipe],
) -> Trained:
    """The recipe and epoch of lowest held-out loss; what is trained for that is thrown away."""
    parts = [held_out(group, problem.training.held_out, problem.generator("held out")) for group in groups]
    kept, held = ([item for part in parts for item in part[which]] for which in (0, 1))
    before = _held_out_loss(start(problem, problem.generator(method)), held, recipes[0].batch)
    lowest, best = inf, Trained(Nothing(), recipes[0].learning_rate, 1, before)
    leading: list[float] = []  # held-out loss after each epoch at the best rate so far
    # The largest rates first: they learn, or diverge, in the fewest epochs.
    for recipe in sorted(recipes, key=lambda recipe: recipe.learning_rate, reverse=True):
        generator = problem.generator(method)
        trainee = start(problem, generator)
        own: list[float] = []  # held-out loss after each epoch
        for _ in trained_epochs(trainee, kept, recipe, generator):
            own.append(_held_out_loss(trainee, held, recipe.batch))
            if own[-1] == inf or min(own[-PATIENCE:]) > min(own) or _behind(own, leading):
                break
        if min(own) < lowest:
            lowest, leading = min(own), own
            best = replace(best, learning_rate=recipe.learning_rate, n_epochs=own.index(lowest) + 1, loss_after=lowest)
    if lowest == inf:
        raise Abstains("training diverges at every learning rate")
    return best


def _behind(own: Sequence[float], leading: Sequence[float]) -> bool:
    """Whether each of the last `PATIENCE` epochs that the better rate had too left a higher loss than there."""
    both = list(zip(own, leading, strict=False))[-PATIENCE:]
    return len(both) == PATIENCE and all(mine > theirs for mine, theirs in both)


def held_out(items: Sequence[Item], share: float, generator: torch.Generator) -> tuple[list[Item], list[Item]]:
    """(Those to train on, those held out), drawn at random, each in their order; at least one of either."""
    if len(items) < 2:
        raise Abstains(f"{len(items)} training texts: one cannot be held out to choose a learning rate")
    n_held = min(max(1, round(share * len(items))), len(items) - 1)
    held = set(torch.randperm(len(items), generator=generator)[:n_held].tolist())
    parts = [[item for place, item in enumerate(items) if (place in held) == wanted] for wanted in (False, True)]
    return parts[0], parts[1]


@torch.no_grad()
def _held_out_loss(trainee: Trainee[Item], items: Sequence[Item], batch: int) -> float:
    """Mean over all tokens of the texts; infinite where training diverged."""
    loss = float(torch.cat([trainee.losses(items[start : start + batch], 0.0) for start in range(0, len(items), batch)]).mean())
    return loss if isfinite(loss) else inf


def trained_epochs(trainee: Trainee[Item], items: Sequence[Item], recipe: Recipe, generator: torch.Generator) -> Iterator[list[float]]:
    """Change the parameters in place so that the loss falls, an epoch at a time, each text once in a new order; gives each step's mean loss
    before it."""
    optimizer = torch.optim.AdamW(trainee.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    n_steps = recipe.epochs * -(-len(items) // (recipe.batch * recipe.accumulated))
    decay = linear_decay(optimizer, n_steps)
    for _ in range(recipe.epochs):
        batches = shuffled_batches(items, recipe.batch * recipe.accumulated, generator)
        yield torch.stack([_step(trainee, together, recipe, optimizer, decay, n_steps) for together in batches]).tolist()


@torch.enable_grad()
def _step(
    trainee: Trainee[Item],
    together: list[Item],
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    decay: torch.optim.lr_scheduler.LambdaLR,
    n_steps: int,
) -> Float[Tensor, ""]:
    """One step of gradient descent; gives the loss before it."""
    parts = [together[start : start + recipe.batch] for start in range(0, len(together), recipe.batch)]
    done = decay.last_epoch / n_steps
    loss = torch.stack([_backward(trainee.losses(part, done).mean() / len(parts)) for part in parts]).sum()
    if recipe.largest_gradient is not None:
        nn.utils.clip_grad_norm_(trainee.parameters, recipe.largest_gradient)
    optimizer.step()
    trainee.after_step()
    decay.step()
    optimizer.zero_grad()
    return loss


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()


def shuffled_batches(items: Sequence[Item], size: int, generator: torch.Generator) -> Iterator[list[Item]]:
    """Every item once, in a new order, `size` together."""
    order = torch.randperm(len(items), generator=generator).tolist()
    for start in range(0, len(order), size):
        yield [items[place] for place in order[start : start + size]]


def linear_decay(optimizer: torch.optim.Optimizer, n_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate falling in a straight line to 0 over the steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / n_steps))
