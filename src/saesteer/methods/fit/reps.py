"""RePS, reference-free preference steering (arXiv 2505.20809), of a vector: trained so that, with it added, a text of the concept is
preferred to what the model itself says after the same prompt, and with its direction taken out the other way round.

For a prompt x, a text y_c that shows the concept, the model's own text y and a factor a:

    D+ = b+ / |y_c| log p(y_c | x; h + a w) - 1 / |y| log p(y | x; h + a w),              b+ = max(log p(y | x) - log p(y_c | x), 1)
    D- = b- / |y| log p(y | x; null) - 1 / |y_c| log p(y_c | x; null),                    b- = max(log p(y_c | x) - log p(y | x), 1)

where null is h - ReLU(h . w) w / |w|^2, and the loss is the mean of -log sigmoid(D+) and -log sigmoid(D-). Lengths are in tokens, p without
a condition is the unsteered model's.

As published, y is the model's own answer: here sampled once for each positive text's prompt, at most as long as that text. Each pair has
one factor, drawn once from those published (2, 4, ... 20), where the program draws one at every step and for either text; its dropout and
the bias of the factor are left out. Factor 1 in the table is the middle of those trained with, 11 times the vector at its own length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.interventions import Addition, Nothing
from saesteer.engine.sites import changed
from saesteer.methods.fit.problem import Abstains, Problem, Text, unit
from saesteer.methods.fit.training import Trained, Trainee, token_losses, trained

FACTORS = tuple(range(2, 21, 2))
MIDDLE = sum(FACTORS) / len(FACTORS)


@dataclass(frozen=True)
class Pair:
    """Two texts after the same prompt."""

    concept: Text
    own: Text  # the unsteered model's
    factor: float
    concept_log_p: float  # of the whole text, unsteered, in nats
    own_log_p: float


def fit(problem: Problem) -> Trained:
    """The trained vector."""
    return trained(problem, "reps", untrained, pairs(problem))


def untrained(problem: Problem, generator: torch.Generator) -> Trainee[Pair]:
    """What training starts from: a vector as nn.Linear draws its weight."""
    bound = problem.width**-0.5
    w = nn.init.uniform_(torch.empty(problem.width), -bound, bound, generator=generator).to(problem.lm.device).requires_grad_()

    def result() -> Addition:
        return Addition(unit(w.detach()), MIDDLE * float(w.detach().norm()))

    return Trainee([w], lambda some, _: losses(problem, some, w), result)


@torch.no_grad()
def pairs(problem: Problem) -> list[Pair]:
    """Each positive text with one that the unsteered model writes after its prompt."""
    lm, generator = problem.lm, problem.generator("reps pairs")
    said = [len(text.ids) - text.n_context for text in problem.positive]
    rows = pl.DataFrame(
        {
            "row": range(len(said)),
            "intervention": [0] * len(said),
            "prompt": range(len(said)),
            "factor": [1.0] * len(said),
            "stream": torch.randint(2**62, (len(said),), generator=generator).tolist(),
        },
        schema_overrides={"row": pl.UInt32, "stream": pl.UInt64},
    )
    prompts = [text.ids[: text.n_context] for text in problem.positive]
    sampling = Sampling(max(said), temperature=1.0, stop="")
    written = (
        pl.concat(steered_texts(lm, problem.sae, problem.layer, rows, [Nothing()], prompts, sampling)).sort("row")["token_ids"].to_list()
    )
    own = [Text(prompt + tokens[:n], len(prompt)) for prompt, tokens, n in zip(prompts, written, said, strict=True)]
    if any(len(text.ids) == text.n_context for text in own):
        raise Abstains("the model writes nothing after one of the concept's prompts")
    factors = [FACTORS[place] for place in torch.randint(len(FACTORS), (len(own),), generator=generator).tolist()]
    log_p = log_probabilities(problem, (*problem.positive, *own)).tolist()
    return [Pair(*pair) for pair in zip(problem.positive, own, map(float, factors), log_p[: len(own)], log_p[len(own) :], strict=True)]


def losses(problem: Problem, some: Sequence[Pair], w: Float[Tensor, " d_model"]) -> Float[Tensor, " pair"]:
    """Mean of -log sigmoid(D+) and -log sigmoid(D-) of each pair."""
    texts = [pair.concept for pair in some] + [pair.own for pair in some]
    factor = torch.tensor([pair.factor for pair in some] * 2, device=w.device)[:, None, None]

    def steered(residual: Tensor) -> Tensor:
        h = residual.float()  # [text seq d_model]: the texts with the vector added, then the same with its direction taken out
        added, plain = h.chunk(2)
        taken_out = (plain @ w).relu()[..., None] * w / (w @ w)
        return torch.cat([added + factor * w, plain - taken_out]).to(residual.dtype)

    with changed(problem.lm, problem.site.place, steered):
        log_p = log_probabilities(problem, texts * 2)
    length = torch.tensor([len(text.ids) - text.n_context for text in texts], device=w.device)
    concept_length, own_length = length.chunk(2)
    concept_added, own_added, concept_without, own_without = log_p.chunk(4)
    surprise = torch.tensor([pair.own_log_p - pair.concept_log_p for pair in some], device=w.device)
    towards = surprise.clamp(min=1) / concept_length * concept_added - own_added / own_length
    away = (-surprise).clamp(min=1) / own_length * own_without - concept_without / concept_length
    return -(nn.functional.logsigmoid(towards) + nn.functional.logsigmoid(away)) / 2


def log_probabilities(problem: Problem, texts: Sequence[Text]) -> Float[Tensor, " text"]:
    """log p(what a text says | its prompt), in nats, of all of its tokens together."""
    lengths = [len(text.ids) - text.n_context for text in texts]
    return -torch.stack([part.sum() for part in token_losses(problem.lm, texts).split(lengths)])
