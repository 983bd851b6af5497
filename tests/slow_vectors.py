"""What vector methods are compared with: one text at a time, unpadded, through transformers' own outputs; AdamW written out."""

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from oracles.plain_hooks import at_hook_point, token_losses
from torch import Tensor, nn

from saesteer.methods.fit.problem import Problem, TrainingText


@functools.cache
def _apart(model: nn.Module) -> nn.Module:
    """A copy, since `output_hidden_states` leaves hooks of its own in a model."""
    return copy.deepcopy(model)


def slow_residuals(given: Problem, text: TrainingText) -> np.ndarray:
    """[token d_model] of what a text says, from `output_hidden_states`."""
    with torch.no_grad():
        out = _apart(given.lm.model)(input_ids=torch.tensor([text.ids]), output_hidden_states=True)
    return out.hidden_states[given.layer + 1][0, text.n_context :].double().numpy()


def slow_loss(given: Problem, texts: Sequence[TrainingText], change: Callable[[Tensor, TrainingText], Tensor]) -> Tensor:
    """Mean -log p of the said tokens; the residual [seq d_model] is changed by a plain hook."""
    losses = []
    for text in texts:
        with at_hook_point(given.lm.model, given.layer, "resid_post", lambda residual, text=text: change(residual[0], text)[None]) as model:
            losses.append(token_losses(model, text.ids, text.n_context))
    return torch.cat(losses).mean()


def slow_reft_loss(given: Problem, texts: Sequence[TrainingText], w: Tensor, progress: float) -> Tensor:
    """The formula of P4 (arXiv 2501.17148), read word by word."""
    others = []

    def pushed(residual: Tensor, text: TrainingText) -> Tensor:
        activations = [torch.relu(row @ w) for row in residual[text.n_context :]]
        ordered = sorted(activations, key=lambda one: float(one.detach()), reverse=True)
        top, rest = ordered[:8], ordered[8:]
        others.append(sum(rest, torch.zeros(())) / len(activations))
        return residual + sum(top) / len(top) * w

    loss = slow_loss(given, texts, pushed)
    return loss + 0.005 * progress * sum(others)


def slow_batches(texts: Sequence[TrainingText], size: int, epochs: int, generator: torch.Generator) -> list[list[TrainingText]]:
    batches = []
    for _ in range(epochs):
        order = torch.randperm(len(texts), generator=generator).tolist()
        while order:
            batches.append([texts[place] for place in order[:size]])
            order = order[size:]
    return batches


def slow_adamw(start: Tensor, gradients: Callable[[Tensor, int], Tensor], n: int, rate: float, decay: float, after=lambda x: x) -> Tensor:
    """n steps of AdamW (arXiv 1711.05101; betas .9, .999, epsilon 1e-8), the rate falling from `rate` in a straight line to 0."""
    x, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(n):
        g = gradients(x, step)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        now = rate * (n - step) / n
        x = x * (1 - now * decay) - now * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        x = after(x)
    return x


def gradient_of(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    x = at.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(x), [x])[0]


def cosine(one: Tensor | np.ndarray, other: Tensor | np.ndarray) -> float:
    a, b = (np.asarray(x, dtype=float) for x in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
