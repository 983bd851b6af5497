"""LoRA (arXiv 2106.09685) as a steering method (P4, arXiv 2501.17148): the output projection of attention in four layers gets a product of
two thin matrices added, trained on the language-model loss of what the positive texts say.

Constants are those of P4's program (settings/recipes.csv). It has peft divide alpha by the root of the rank, not by the rank (rsLoRA, arXiv
2312.03732). It trains on positive texts alone and steers with the adapter as trained, factor 1.
Its dropout of 0.05 is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.engine.adapters import adapter_layers, attention_output, input_width, low_rank_weights_installed
from saesteer.engine.interventions import LowRankWeights
from saesteer.engine.models import LanguageModel
from saesteer.engine.sites import Site, site_of
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.training import ReadText, Trained, Trainee, losses_behind, read_texts, trained

RANK = 4
ALPHA = 32
SCALING = ALPHA / RANK**0.5


def fit(problem: Problem) -> Trained:
    """An adapter of rank `RANK`, trained on the positive texts."""
    return trained(problem, "lora", untrained, read_texts(problem.lm, first_site(problem, "lora"), problem.positive))


def first_site(problem: Problem, recipe: str) -> Site:
    """The residual before the first layer that an adapter changes."""
    return site_of(problem.lm, min(adapter_layers(problem.lm.n_layers, problem.training.recipes[recipe].layers)), "resid_pre")


def untrained(problem: Problem, generator: torch.Generator) -> Trainee[ReadText]:
    """What training starts from: an adapter that changes nothing."""
    lm, site = problem.lm, first_site(problem, "lora")
    adapter = new_adapter(lm, adapter_layers(lm.n_layers, problem.training.recipes["lora"].layers), generator)

    def losses(some: Sequence[ReadText], _progress: float) -> Tensor:
        return adapted_losses(lm, site, adapter, some, torch.ones(len(some), device=lm.device))

    def result() -> LowRankWeights:
        return replace(adapter, A=adapter.A.detach(), B=adapter.B.detach())

    return Trainee([adapter.A.requires_grad_(), adapter.B.requires_grad_()], losses, result)


def adapted_losses(
    lm: LanguageModel, site: Site, adapter: LowRankWeights, some: Sequence[ReadText], factor: Float[Tensor, " text"]
) -> Float[Tensor, " token"]:
    """Loss of each token that the texts say (nats), under the adapter at these factors."""
    with low_rank_weights_installed(lm, adapter, factor):
        return losses_behind(lm, site, some)


def new_adapter(lm: LanguageModel, layers: tuple[int, ...], generator: torch.Generator) -> LowRankWeights:
    """A uniform within 1 / sqrt(d_in), as peft draws it, and B 0, so that it changes nothing."""
    inputs = [input_width(attention_output(lm, layer)) for layer in layers]
    A = [nn.init.kaiming_uniform_(torch.empty(RANK, n_in), a=5**0.5, generator=generator) for n_in in inputs]
    padded = torch.stack([nn.functional.pad(one, (0, max(inputs) - one.shape[1])) for one in A])
    return LowRankWeights(layers, padded.to(lm.device), torch.zeros(len(layers), lm.d_model, RANK, device=lm.device), SCALING)
