"""ReFT-r1 (P4, arXiv 2501.17148, section 4): one direction that both finds the concept in a text and adds it, trained on the language-model
loss.

h -> h + mean(top-k ReLU(h . w)) * w: the push is the mean of the text's k largest activations of w, the same at every position. The same w,
at unit norm, reads and writes. Activations count where the text says something; the push reaches every position, as when steering.

P4's program sums the sparsity term over a batch's texts; the mean is taken here, over texts and over all positions of each (its top k count
as 0). The program rescales w between the backward pass and the step; here after the step, so that every forward sees unit
norm. Texts shorter than k tokens have the mean of as many as there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.sites import changed
from saesteer.methods.fit.problem import Problem, Text, output_mask, scaled_addition, unit
from saesteer.methods.fit.training import linear_decay, n_batches, shuffled_batches, text_loss

K = 8
SPARSITY = 0.005
BATCH = 6
EPOCHS = 3
LEARNING_RATE = 1e-2
LARGEST_GRADIENT = 1.0


def fit(problem: Problem) -> Addition:
    """The trained direction."""
    return scaled_addition(problem, unit(trained_direction(problem)))


@torch.enable_grad()
def trained_direction(problem: Problem) -> Float[Tensor, " d_model"]:
    """w after AdamW on positive and negative texts, from a random direction."""
    generator = problem.generator("reft_r1")
    w = unit(torch.randn(problem.width, generator=generator)).to(problem.lm.device).requires_grad_()
    texts = (*problem.positive, *problem.negative)
    n_steps = n_batches(texts, BATCH, EPOCHS)
    optimizer = torch.optim.AdamW([w], lr=LEARNING_RATE)
    schedule = linear_decay(optimizer, n_steps)
    for step, batch in enumerate(shuffled_batches(texts, BATCH, EPOCHS, generator)):
        (gradient,) = torch.autograd.grad(training_loss(problem, batch, w, step / n_steps), [w])
        w.grad = usable_gradient(gradient, w.detach())
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            w.copy_(unit(w))
    return w.detach()


def usable_gradient(gradient: Float[Tensor, " d_model"], w: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    """The gradient without its part along the unit vector w, which could only change w's length, and no longer than `LARGEST_GRADIENT`."""
    across = gradient - (gradient @ w) * w
    return across * (LARGEST_GRADIENT / across.norm().clamp(min=LARGEST_GRADIENT))


def training_loss(problem: Problem, texts: Sequence[Text], w: Float[Tensor, " d_model"], progress: float) -> Float[Tensor, ""]:
    """Mean loss per token (nats) of the texts under the intervention + 0.005 * progress * mean of activations outside the top k; `progress`
    is the share of steps done."""
    counted = output_mask(texts, problem.lm.device)
    spare: list[Tensor] = []

    def pushed(residual: Tensor) -> Tensor:
        push, others = pooled(residual.float() @ w, counted)
        spare.append(others.mean())
        return residual + (push[:, None, None] * w).to(residual.dtype)

    with changed(problem.lm, problem.site.place, pushed):
        loss = text_loss(problem.lm, texts)
    return loss + SPARSITY * progress * spare[0]


def pooled(along: Float[Tensor, "text seq"], counted: Bool[Tensor, "text seq"]) -> tuple[Float[Tensor, " text"], Float[Tensor, " text"]]:
    """Of each text's projections h . w: the mean of its k largest activations ReLU(h . w), and the mean over its positions of the others.
    Other positions than `counted` do not count."""
    activations = along.relu() * counted
    n_counted = counted.sum(dim=1).clamp(min=1)
    top = activations.topk(min(K, activations.shape[1]), dim=1).values.sum(dim=1)
    return top / n_counted.clamp(max=K), (activations.sum(dim=1) - top) / n_counted
