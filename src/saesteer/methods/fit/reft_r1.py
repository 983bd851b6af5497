"""ReFT-r1 (P4, arXiv 2501.17148, section 4): one direction that both finds the concept in a text and adds it, trained on the language-model
loss.

h -> h + mean(top-k ReLU(h . w)) * w: the push is the mean of the text's k largest activations of w, the same at every position. The same w,
at unit norm, reads and writes. Activations count where the text says something; the push reaches every position, as when steering.

As in P4's program the sparsity term is the sum over a batch's texts of the mean over each one's positions (its top k count as 0). The
program rescales w between the backward pass and the step; here after the step, so that every forward sees unit norm. Texts shorter than k
tokens have the mean of as many as there are.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.methods.fit.problem import Problem, output_mask, scaled_addition, unit
from saesteer.methods.fit.training import ReadText, Trained, Trainee, losses_behind, read_texts, trained

K = 8
SPARSITY = 0.005


def fit(problem: Problem) -> Trained:
    """The direction, trained on positive and negative texts from a random one."""
    positive, negative = (read_texts(problem.lm, problem.hook_point, texts) for texts in (problem.positive, problem.negative))
    return trained(problem, "reft_r1", untrained, positive, negative)


def untrained(problem: Problem, generator: torch.Generator) -> Trainee[ReadText]:
    """What training starts from: a random direction. A gradient along it could only change its length."""
    w = unit(torch.randn(problem.width, generator=generator)).to(problem.lm.device).requires_grad_()
    w.register_hook(lambda gradient: gradient - (gradient @ w.detach()) * w.detach())

    @torch.no_grad()
    def to_unit_norm() -> None:
        w.div_(w.norm())

    return Trainee([w], lambda texts, done: losses(problem, texts, w, done), lambda: scaled_addition(problem, w.detach()), to_unit_norm)


def losses(problem: Problem, read: Sequence[ReadText], w: Float[Tensor, " d_model"], progress: float) -> Float[Tensor, " token"]:
    """Loss of each token of the texts (nats) under the intervention + 0.005 * progress * sum over texts of the mean of activations outside
    the top k; `progress` is the share of steps done."""
    counted = output_mask([text_read.text for text_read in read], problem.lm.device)
    spare: list[Tensor] = []

    def pushed(residual: Tensor) -> Tensor:
        push, outside = pooled(residual.float() @ w, counted)
        spare.append(outside.sum())
        return residual + (push[:, None, None] * w).to(residual.dtype)

    of_tokens = losses_behind(problem.lm, problem.hook_point, read, pushed)
    return of_tokens + SPARSITY * progress * spare[0]


def pooled(along: Float[Tensor, "text seq"], counted: Bool[Tensor, "text seq"]) -> tuple[Float[Tensor, " text"], Float[Tensor, " text"]]:
    """What is read of each text's projections h . w: the mean of its k largest activations ReLU(h . w), and the mean over its positions of
    the others. Other positions than `counted` do not count."""
    activations = along.relu() * counted
    n_counted = counted.sum(dim=1).clamp(min=1)
    top = activations.topk(min(K, activations.shape[1]), dim=1).values.sum(dim=1)
    return top / n_counted.clamp(max=K), (activations.sum(dim=1) - top) / n_counted
