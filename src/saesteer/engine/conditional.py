"""Whether a conditional intervention steers a prompt's text (CAST, arXiv 2409.05907): decided once, on the unsteered prompt."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.engine.hook_points import HookPoint, reading
from saesteer.engine.models import LanguageModel
from saesteer.engine.steering import Intervention

ALGORITHM_VERSION = 1


def similarity(mean: Float[Tensor, "*row d_model"], condition: Float[Tensor, " d_model"]) -> Float[Tensor, "*row"]:
    """sim(h, proj_c h), the cosine between a prompt's mean residual h and tanh((c c^T / c^T c) h), as the authors' program has it; the
    paper's projection is without tanh, so that its cosine is |cos(h, c)|. Either is the same for c and -c."""
    along = (mean @ condition) / (condition @ condition)
    return torch.cosine_similarity(mean, torch.tanh(along[..., None] * condition), dim=-1)


def switched(
    lm: LanguageModel,
    hook_point: HookPoint,
    interventions: Sequence[Intervention],
    which: Int[Tensor, " row"],
    factor: Float[Tensor, " row"],
    prompts: Sequence[Sequence[int]],
) -> Float[Tensor, " row"]:
    """The factors of rows, each with its prompt: 0 where the row's intervention has a condition that the prompt does not meet.

    h is the mean over a prompt's tokens, but for the first, of what lies at the hook point. The authors' program takes the first as well:
    the beginning-of-sequence token's residual is the same in every prompt, and in many models larger than all others.
    """
    if all(intervention.unconditional is intervention for intervention in interventions):
        return factor
    means = {}
    for prompt in {tuple(prompt) for prompt in prompts}:
        at_hook_point = reading(lm, torch.tensor([prompt], device=lm.device), hook_point)
        means[prompt] = at_hook_point.value[0, 1:].float().mean(dim=0)  # NaN, which meets no condition, of a prompt of one token
    rows = list(zip(which.tolist(), map(tuple, prompts), strict=True))
    met = {(place, prompt): interventions[place].steers(means[prompt]) for place, prompt in set(rows)}
    return factor * torch.tensor([met[row] for row in rows], device=factor.device)
