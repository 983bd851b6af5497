"""LoRA (arXiv 2106.09685) as a steering method (P4, arXiv 2501.17148): the output projection of attention in four layers gets a product of
two thin matrices added, trained on the language-model loss of what the positive texts say.

Constants are those of P4's program. The paper's text gives another learning rate (5e-3); and the program has peft divide alpha by the root
of the rank, not by the rank (rsLoRA, arXiv 2312.03732). It trains on positive texts alone and steers with the adapter as trained, factor 1.
Its dropout of 0.05 is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saesteer.engine.adapters import adapter_layers, attention_output, input_width, low_rank_weights_installed
from saesteer.engine.interventions import LowRankWeights
from saesteer.engine.models import LanguageModel
from saesteer.methods.fit.problem import Problem, Text
from saesteer.methods.fit.training import Recipe, text_loss, train

RANK = 4
ALPHA = 32
SCALING = ALPHA / RANK**0.5
RECIPE = Recipe(learning_rate=9e-4, batch=18, accumulated=2, epochs=24)

logger = logging.getLogger(__name__)


def fit(problem: Problem) -> LowRankWeights:
    """An adapter of rank `RANK`, trained on the positive texts."""
    lm, generator = problem.lm, problem.generator("lora")
    adapter = untrained(lm, generator)
    parameters = [adapter.A.requires_grad_(), adapter.B.requires_grad_()]

    def loss(texts: Sequence[Text]) -> Tensor:
        with low_rank_weights_installed(lm, adapter, torch.ones(len(texts), device=lm.device)):
            return text_loss(lm, texts)

    losses = train(parameters, loss, problem.positive, RECIPE, generator)
    logger.info("lora, %s: loss %.3f before, %.3f after %d steps", problem.concept, losses[0], losses[-1], len(losses))
    return LowRankWeights(adapter.layers, adapter.A.detach(), adapter.B.detach(), SCALING)


def untrained(lm: LanguageModel, generator: torch.Generator) -> LowRankWeights:
    """The adapter that training starts from: A uniform within 1 / sqrt(d_in), as peft draws it, and B 0, so that it changes nothing."""
    layers = adapter_layers(lm.n_layers)
    inputs = [input_width(attention_output(lm, layer)) for layer in layers]
    A = [nn.init.kaiming_uniform_(torch.empty(RANK, n_in), a=5**0.5, generator=generator) for n_in in inputs]
    padded = torch.stack([nn.functional.pad(one, (0, max(inputs) - one.shape[1])) for one in A])
    return LowRankWeights(layers, padded.to(lm.device), torch.zeros(len(layers), lm.d_model, RANK, device=lm.device), SCALING)
