"""Whether a conditional intervention steers a prompt's text (CAST, arXiv 2409.05907): decided once, on the unsteered prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.engine.interventions import ConditionalAddition, Intervention
from saesteer.engine.models import MIN_ROWS, LanguageModel
from saesteer.engine.sites import Site, reading

ALGORITHM_VERSION = 1


def similarity(mean: Float[Tensor, "*row d_model"], condition: Float[Tensor, " d_model"]) -> Float[Tensor, "*row"]:
    """sim(h, proj_c h), the cosine between a prompt's mean residual h and tanh((c c^T / c^T c) h), as the authors' program has it; the
    paper's projection is without tanh, so that its cosine is |cos(h, c)|. Either is the same for c and -c."""
    along = (mean @ condition) / (condition @ condition)
    return torch.cosine_similarity(mean, torch.tanh(along[..., None] * condition), dim=-1)


@torch.no_grad()
def prompt_mean(lm: LanguageModel, site: Site, prompt: Sequence[int]) -> Float[Tensor, " d_model"]:
    """The mean over a prompt's tokens, but for the first, of what lies at the site. The first is left out where the authors' program takes
    it: the beginning-of-sequence token's residual is the same in every prompt, and in many models larger than all others."""
    made = reading(lm, torch.tensor([list(prompt)] * MIN_ROWS, device=lm.device), site)
    return made.value[0, 1:].float().mean(dim=0)  # NaN, which meets no condition, of a prompt of one token


def switched(
    lm: LanguageModel,
    site: Site,
    interventions: Sequence[Intervention],
    which: Int[Tensor, " row"],
    factor: Float[Tensor, " row"],
    prompts: Sequence[Sequence[int]],
) -> Float[Tensor, " row"]:
    """The factors of rows, each with its prompt: 0 where the row's intervention has a condition that the prompt does not meet."""
    if not any(isinstance(one, ConditionalAddition) for one in interventions):
        return factor
    means = {prompt: prompt_mean(lm, site, prompt) for prompt in {tuple(prompt) for prompt in prompts}}
    rows = zip(which.tolist(), prompts, strict=True)
    return factor * torch.tensor([_steers(interventions[place], means[tuple(prompt)]) for place, prompt in rows], device=factor.device)


def _steers(one: Intervention, mean: Float[Tensor, " d_model"]) -> bool:
    if not isinstance(one, ConditionalAddition):
        return True
    value = float(similarity(mean, one.condition.to(mean)))
    return value > one.threshold if one.above else value < one.threshold
