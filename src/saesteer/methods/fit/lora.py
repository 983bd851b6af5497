"""LoRA (arXiv 2106.09685) as a steering method (P4, arXiv 2501.17148): the output projection of attention in four layers gets a product of
two thin matrices added, trained on the language-model loss of what the positive texts say.

Constants are those of P4's program (settings/recipes.csv). It has peft divide alpha by the root of the rank, not by the rank (rsLoRA, arXiv
2312.03732). It trains on positive texts alone and steers with the adapter as trained, factor 1.
Its dropout of 0.05 is left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.engine.adapters import LowRankWeights, attention_output, input_width
from saesteer.engine.hook_points import HookPoint
from saesteer.engine.models import LanguageModel
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.training import (
    Item,
    ReadText,
    Trained,
    Trainee,
    adapted_layers,
    first_hook_point,
    losses_behind,
    read_texts,
    trained,
)

RANK = 4
ALPHA = 32
SCALING = ALPHA / RANK**0.5


def fit(problem: Problem) -> Trained:
    """An adapter of rank `RANK`, trained on the positive texts."""
    return trained(problem, "lora", untrained, read_texts(problem.lm, first_hook_point(problem, "lora"), problem.positive))


def untrained(problem: Problem, generator: torch.Generator) -> Trainee[ReadText]:
    """What training starts from: an adapter that changes nothing."""
    lm, hook_point = problem.lm, first_hook_point(problem, "lora")
    adapter = new_adapter(lm, adapted_layers(problem, "lora"), generator)

    def losses(texts: Sequence[ReadText], _progress: float) -> Tensor:
        return adapted_losses(lm, hook_point, adapter, texts, torch.ones(len(texts), device=lm.device))

    return trainee_of(adapter, losses)


def trainee_of(adapter: LowRankWeights, losses: Callable[[Sequence[Item], float], Tensor], scale: float = 1.0) -> Trainee[Item]:
    """An adapter to be trained; the result is `scale` times what it then adds."""

    def result() -> LowRankWeights:
        return replace(adapter, A=adapter.A.detach(), B=scale * adapter.B.detach())

    return Trainee([adapter.A.requires_grad_(), adapter.B.requires_grad_()], losses, result)


def adapted_losses(
    lm: LanguageModel, hook_point: HookPoint, adapter: LowRankWeights, texts: Sequence[ReadText], factor: Float[Tensor, " text"]
) -> Float[Tensor, " token"]:
    """Loss of each token of the outputs (nats), under the adapter at these factors."""
    with adapter.installed(lm, factor):
        return losses_behind(lm, hook_point, texts)


def new_adapter(lm: LanguageModel, layers: tuple[int, ...], generator: torch.Generator) -> LowRankWeights:
    """A uniform within 1 / sqrt(d_in), as peft draws it, and B 0, so that it changes nothing."""
    inputs = [input_width(attention_output(lm, layer)) for layer in layers]
    A = [nn.init.kaiming_uniform_(torch.empty(RANK, n_in), a=5**0.5, generator=generator) for n_in in inputs]
    padded = torch.stack([nn.functional.pad(rows, (0, max(inputs) - rows.shape[1])) for rows in A])
    return LowRankWeights(layers, padded.to(lm.device), torch.zeros(len(layers), lm.d_model, RANK, device=lm.device), SCALING)
