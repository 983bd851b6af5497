"""Training on texts: the loss of a language model on their outputs, gradient descent in a seeded order, and the learning rate and number of
epochs that held-out texts choose, alike for every method."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf, isfinite
from typing import Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saesteer.core.errors import NotFiniteError
from saesteer.engine.adapters import adapter_layers
from saesteer.engine.head import raw_logits, scaled
from saesteer.engine.hook_points import HookPoint, hidden_after, hook_point_of, reading
from saesteer.engine.interventions import Nothing
from saesteer.engine.models import LanguageModel, hidden_states
from saesteer.engine.steering import Intervention
from saesteer.methods.fit.problem import Abstains, Problem, TrainingText, output_mask, padded_ids, text_batches
from saesteer.settings.registry import Recipe

ALGORITHM_VERSION = 3

Item = TypeVar("Item")

PATIENCE = 4
"""Epochs without a lower held-out loss, or with a higher one than the best rate so far had at each, after which a rate is given up."""

log = logging.getLogger(__name__)


def token_losses(lm: LanguageModel, texts: Sequence[TrainingText]) -> Float[Tensor, " token"]:
    """-log p(token | what is before it) of each token of the outputs (contexts are read, not scored), text after text, in nats; gradients
    flow through it, to what the caller has installed."""
    ids = padded_ids(lm, texts)  # [text seq]
    return _output_losses(lm, texts, ids, hidden_states(lm, input_ids=ids, use_cache=False))


def _output_losses(
    lm: LanguageModel, texts: Sequence[TrainingText], ids: Int[Tensor, "text seq"], hidden: Float[Tensor, "text seq d_model"]
) -> Float[Tensor, " token"]:
    if any(text.n_context == 0 for text in texts):
        raise ValueError("a text without context has a first token that nothing predicts: give it a beginning-of-sequence token at least")
    # Found on the host, which knows the lengths: the device need not be waited for.
    row, at = (index.to(ids.device) for index in output_mask(texts, torch.device("cpu")).nonzero(as_tuple=True))
    return nn.functional.cross_entropy(logits_with_gradients(lm, hidden[row, at - 1]), ids[row, at], reduction="none")


@dataclass(frozen=True, eq=False)
class ReadText:
    """A training text with what the unsteered model has at a hook point at each of its positions: training that changes nothing before
    the hook point need not run the blocks before it again."""

    text: TrainingText
    value: Float[Tensor, "seq width"]
    past: Float[Tensor, "seq d_model"] | None  # of hook_z: the residual that goes past it


def adapted_layers(problem: Problem, recipe: str) -> tuple[int, ...]:
    """The layers that a recipe's adapters change."""
    return adapter_layers(problem.lm.n_layers, problem.training.recipes[recipe].layers)


def first_hook_point(problem: Problem, recipe: str) -> HookPoint:
    """The residual before the first of these layers: training adapters need not run the blocks before it again."""
    return hook_point_of(problem.lm, min(adapted_layers(problem, recipe)), "resid_pre")


def read_texts(lm: LanguageModel, hook_point: HookPoint, texts: Sequence[TrainingText]) -> list[ReadText]:
    """Run texts up to a hook point, `TEXTS_AT_A_TIME` together."""
    read = []
    for batch in text_batches(tuple(texts)):
        at_hook_point = reading(lm, padded_ids(lm, batch), hook_point)
        for row, text in enumerate(batch):
            past = None if at_hook_point.past is None else at_hook_point.past[row, : len(text.ids)]
            read.append(ReadText(text, at_hook_point.value[row, : len(text.ids)], past))
    return read


def losses_behind(
    lm: LanguageModel, hook_point: HookPoint, read: Sequence[ReadText], change: Callable[[Tensor], Tensor] = lambda value: value
) -> Float[Tensor, " token"]:
    """`token_losses` of texts read at the hook point when what lies there [text seq width] goes through `change`; only the blocks behind
    it run, and gradients flow through them."""
    texts = [text_read.text for text_read in read]
    value = nn.utils.rnn.pad_sequence([text_read.value for text_read in read], batch_first=True)
    pasts = [text_read.past for text_read in read if text_read.past is not None]
    past = nn.utils.rnn.pad_sequence(pasts, batch_first=True) if pasts else None
    return _output_losses(lm, texts, padded_ids(lm, texts), hidden_after(lm, hook_point.place, change(value), past))


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
    on held-out texts (a share of each group) after training on the others; of equal losses the larger rate and the fewer epochs. Where no
    rates are given to choose from, as the recipe says. Every training begins with what `start` gives for the same random numbers."""
    recipe = problem.training.recipes[method]
    choice = Trained(Nothing(), recipe.learning_rate, recipe.epochs)
    if problem.training.learning_rates:
        choice = _chosen(problem, method, start, groups)
    generator = problem.generator(method)
    trainee = start(problem, generator)
    epochs = trained_epochs(
        trainee, [item for group in groups for item in group], replace(recipe, learning_rate=choice.learning_rate), generator
    )
    losses = [loss for epoch in islice(epochs, choice.n_epochs) for loss in epoch]
    rate, n_steps = choice.learning_rate, len(losses)
    log.info("%s, %s: loss %.3f before, %.3f after %d steps at rate %g", method, problem.concept, losses[0], losses[-1], n_steps, rate)
    if not isfinite(losses[-1]):
        raise _diverged(
            f"training at learning rate {rate:g} diverges", start(problem, problem.generator(method)), groups[0][: recipe.batch]
        )
    with torch.no_grad():
        return replace(choice, intervention=trainee.result())


def _chosen(problem: Problem, method: str, start: Start[Item], groups: Sequence[Sequence[Item]]) -> Trained:
    """The learning rate and epoch of lowest held-out loss; what is trained for that is thrown away."""
    recipe = problem.training.recipes[method]
    parts = [held_out(group, problem.training.held_out, problem.generator("held out")) for group in groups]
    learnt, held = ([item for part in parts for item in part[which]] for which in (0, 1))
    before = _mean_loss(start(problem, problem.generator(method)), held, recipe.batch)
    lowest, best = inf, Trained(Nothing(), recipe.learning_rate, 1, before)
    leading: list[float] = []  # held-out loss after each epoch at the best rate so far
    # The largest rates first: they learn, or diverge, in the fewest epochs.
    for rate in sorted(problem.training.learning_rates, reverse=True):
        generator = problem.generator(method)
        trainee = start(problem, generator)
        losses: list[float] = []  # held-out loss after each epoch
        for _ in trained_epochs(trainee, learnt, replace(recipe, learning_rate=rate), generator):
            losses.append(_held_out_loss(trainee, held, recipe.batch))
            pairs = list(zip(losses, leading, strict=False))[-PATIENCE:]  # of the last epochs that the better rate had too
            behind = len(pairs) == PATIENCE and all(loss > better for loss, better in pairs)
            if losses[-1] == inf or min(losses[-PATIENCE:]) > min(losses) or behind:
                break
        if min(losses) < lowest:
            lowest, leading = min(losses), losses
            best = replace(best, learning_rate=rate, n_epochs=losses.index(lowest) + 1, loss_after=lowest)
    if lowest == inf:
        raise _diverged("training diverges at every learning rate", start(problem, problem.generator(method)), held)
    return best


def _diverged(reason: str, untrained: Trainee[Item], items: Sequence[Item]) -> Abstains:
    """The reason, unless the untrained model's numbers are not finite either: that is refused by name."""
    _mean_loss(untrained, items, len(items))
    return Abstains(reason)


def held_out(items: Sequence[Item], share: float, generator: torch.Generator) -> tuple[list[Item], list[Item]]:
    """(Those to train on, those held out), drawn at random, each in their order; at least one of either."""
    if len(items) < 2:
        raise Abstains(f"{len(items)} training texts: one cannot be held out to choose a learning rate")
    n_held = min(max(1, round(share * len(items))), len(items) - 1)
    held = set(torch.randperm(len(items), generator=generator)[:n_held].tolist())
    return [item for n, item in enumerate(items) if n not in held], [items[n] for n in sorted(held)]


@torch.no_grad()
def _mean_loss(trainee: Trainee[Item], items: Sequence[Item], batch: int) -> float:
    """Mean over all tokens of the texts."""
    return float(torch.cat([trainee.losses(items[start : start + batch], 0.0) for start in range(0, len(items), batch)]).mean())


def _held_out_loss(trainee: Trainee[Item], items: Sequence[Item], batch: int) -> float:
    """The loss on held-out texts, infinite where training diverged."""
    try:
        loss = _mean_loss(trainee, items, batch)
    except NotFiniteError:
        return inf
    return loss if isfinite(loss) else inf


def trained_epochs(trainee: Trainee[Item], items: Sequence[Item], recipe: Recipe, generator: torch.Generator) -> Iterator[list[float]]:
    """Change the parameters in place so that the loss falls, an epoch at a time, each text once in a new order; the learning rate falls in
    a straight line to 0. Gives each step's mean loss before it; an infinite one ends it."""
    optimizer = torch.optim.AdamW(trainee.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    size = recipe.batch * recipe.accumulated
    n_steps = recipe.epochs * -(-len(items) // size)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / n_steps))
    for _ in range(recipe.epochs):
        order = torch.randperm(len(items), generator=generator).tolist()
        losses = []
        for start in range(0, len(order), size):
            together = [items[place] for place in order[start : start + size]]
            batches = [together[first : first + recipe.batch] for first in range(0, len(together), recipe.batch)]
            try:
                losses.append(_step(trainee, batches, decay.last_epoch / n_steps, recipe.largest_gradient, optimizer))
            except NotFiniteError:  # diverged
                yield [inf]
                return
            decay.step()
        yield torch.stack(losses).tolist()


@torch.enable_grad()
def _step(
    trainee: Trainee[Item], batches: list[list[Item]], progress: float, largest_gradient: float | None, optimizer: torch.optim.Optimizer
) -> Float[Tensor, ""]:
    """One step of gradient descent on the mean of the batches' mean losses; gives the loss before it."""
    losses = []
    for batch in batches:
        loss = trainee.losses(batch, progress).mean() / len(batches)
        loss.backward()
        losses.append(loss.detach())
    if largest_gradient is not None:
        nn.utils.clip_grad_norm_(trainee.parameters, largest_gradient)
    optimizer.step()
    trainee.after_step()
    optimizer.zero_grad()
    return torch.stack(losses).sum()
