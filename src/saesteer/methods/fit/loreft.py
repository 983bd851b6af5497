"""LoReFT (arXiv 2404.03592) as a steering method (P4, arXiv 2501.17148): after four layers, `h + R^T (W h + b - R h)` at the first and last
positions of the prompt, trained on the language-model loss of the positive texts' outputs.

Constants are those of P4's program (settings/recipes.csv). A prompt shorter than both stretches together is edited
once at every position. A training text without a prompt has its first tokens as one: trained at the first token alone, whose residual is
like no other's, an edit would meet positions that it never saw.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from saesteer.engine.adapters import LowRankSubspace
from saesteer.engine.hook_points import HookPoint
from saesteer.engine.models import LanguageModel
from saesteer.methods.fit.problem import Problem
from saesteer.methods.fit.training import ReadText, Trained, Trainee, adapted_layers, first_hook_point, losses_behind, read_texts, trained

RANK = 4
N_FIRST = 5
N_LAST = 5


def fit(problem: Problem) -> Trained:
    """An edit of rank `RANK`, trained on the positive texts, whose prompts are their contexts."""
    problem = with_prompts(problem)
    return trained(problem, "loreft", untrained, read_texts(problem.lm, first_hook_point(problem, "loreft"), problem.positive))


def with_prompts(problem: Problem) -> Problem:
    """Positive texts without a prompt have their first `N_FIRST` tokens behind the first one as theirs, but at most half of them."""
    positive = tuple(
        text if text.n_context > 1 else replace(text, n_context=1 + min(N_FIRST, text.n_output // 2)) for text in problem.positive
    )
    return replace(problem, positive=positive)


def untrained(problem: Problem, generator: torch.Generator) -> Trainee[ReadText]:
    """What training starts from: random edits."""
    lm, hook_point = problem.lm, first_hook_point(problem, "loreft")
    layers, edits = new_edits(problem, "loreft", generator)

    def losses(texts: Sequence[ReadText], _progress: float) -> Tensor:
        return edited_losses(lm, hook_point, edits_together(layers, edits), texts, torch.ones(len(texts), device=lm.device))

    return Trainee(list(edits.parameters()), losses, lambda: edits_together(layers, edits))


def edited_losses(
    lm: LanguageModel, hook_point: HookPoint, edits: LowRankSubspace, texts: Sequence[ReadText], factor: Float[Tensor, " text"]
) -> Float[Tensor, " token"]:
    """Loss of each token of the outputs (nats), their prompts edited at these factors."""
    prompt_length = torch.tensor([read.text.n_context for read in texts], device=lm.device)
    with edits.edited(lm, factor, 0, prompt_length):
        return losses_behind(lm, hook_point, texts)


def new_edits(problem: Problem, recipe: str, generator: torch.Generator) -> tuple[tuple[int, ...], nn.ModuleList]:
    """(The layers that a recipe edits, a random edit of each)."""
    layers = adapted_layers(problem, recipe)
    return layers, nn.ModuleList(_Edit(problem.lm.d_model, generator) for _ in layers).to(problem.lm.device)


class _Edit(nn.Module):
    """One layer's edit. R's rows stay orthonormal through Householder reflections of a free matrix; W and b start as those of nn.Linear."""

    def __init__(self, d_model: int, generator: torch.Generator) -> None:
        super().__init__()
        self.R = nn.Parameter(nn.init.orthogonal_(torch.empty(RANK, d_model), generator=generator))
        self.W = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(RANK, d_model), a=5**0.5, generator=generator))
        self.b = nn.Parameter(nn.init.uniform_(torch.empty(RANK), -(d_model**-0.5), d_model**-0.5, generator=generator))
        # Trivialisation would fill up a square matrix with torch's global random numbers.
        orthogonal(self, "R", orthogonal_map="householder", use_trivialization=False)


def edits_together(layers: tuple[int, ...], edits: nn.ModuleList) -> LowRankSubspace:
    """The edits as one intervention."""
    R, W, b = (torch.stack([getattr(edit, name) for edit in edits]) for name in ("R", "W", "b"))
    return LowRankSubspace(layers, R, W, b, N_FIRST, N_LAST)
