"""RePS, reference-free preference steering (arXiv 2505.20809), of a vector, of LoReFT's edits or of LoRA's adapter: trained so that, with
it, a text of the concept is preferred to what the model itself says after the same prompt, and, steered away by it, the other way round.

For a prompt x, a text y_c that shows the concept, the model's own text y and a factor a:

    D+ = b+ / |y_c| log p(y_c | x; a) - 1 / |y| log p(y | x; a),              b+ = max(log p(y | x) - log p(y_c | x), 1)
    D- = b- / |y| log p(y | x; away) - 1 / |y_c| log p(y_c | x; away),        b- = max(log p(y_c | x) - log p(y | x), 1)

and the loss is the mean of -log sigmoid(D+) and -log sigmoid(D-). Lengths are in tokens, p without a condition is the unsteered model's.
A vector w steers by h + a w, and away by h - ReLU(h . w) w / |w|^2. An edit or adapter has no direction that could be taken out: it steers
away at the factor -a.

As published, y is the model's own answer: here sampled once for each positive text's prompt, at most as long as that text. Each pair has
one factor, drawn once from those published (2, 4, ... 20), where the program draws one at every step and for either text; its dropout and
the bias of the factor are left out. Factor 1 in the table is the middle of those trained with: 11 times the vector at its own length, 11
times the edit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.engine.adapters import LowRankSubspace
from saesteer.engine.continuation import Sampling
from saesteer.engine.generate import steered_texts
from saesteer.engine.hook_points import HookPoint
from saesteer.engine.interventions import Addition, Nothing
from saesteer.methods.fit.lora import adapted_losses, new_adapter, trainee_of
from saesteer.methods.fit.loreft import edited_losses, edits_together, new_edits, with_prompts
from saesteer.methods.fit.problem import TEXTS_AT_A_TIME, Abstains, Problem, TrainingText, unit
from saesteer.methods.fit.training import ReadText, Trained, Trainee, adapted_layers, first_hook_point, losses_behind, read_texts, trained

FACTORS = tuple(range(2, 21, 2))
MIDDLE = sum(FACTORS) / len(FACTORS)

SteeredLosses = Callable[[Sequence[ReadText], Float[Tensor, " text"]], Float[Tensor, " token"]]
"""Texts and their factors, negative ones to steer away -> the loss of each token of their outputs, so steered, in nats."""


@dataclass(frozen=True)
class Pair:
    """Two texts after the same prompt."""

    concept: ReadText
    plain: ReadText  # the unsteered model's
    factor: float
    concept_log_p: float  # of the whole text, unsteered, in nats
    plain_log_p: float


def vector(problem: Problem) -> Trained:
    """The trained vector."""
    return trained(problem, "reps", untrained_vector, pairs(problem, problem.hook_point))


def loreft(problem: Problem) -> Trained:
    """The trained edits after four layers."""
    problem = with_prompts(problem)
    return trained(problem, "reps_loreft", untrained_loreft, pairs(problem, first_hook_point(problem, "reps_loreft")))


def lora(problem: Problem) -> Trained:
    """The trained adapter."""
    return trained(problem, "reps_lora", untrained_lora, pairs(problem, first_hook_point(problem, "reps_lora")))


def untrained_vector(problem: Problem, generator: torch.Generator) -> Trainee[Pair]:
    """What training starts from: a vector as nn.Linear draws its weight."""
    bound = problem.width**-0.5
    w = nn.init.uniform_(torch.empty(problem.width), -bound, bound, generator=generator).to(problem.lm.device).requires_grad_()

    def result() -> Addition:
        return Addition(unit(w.detach()), MIDDLE * float(w.detach().norm()))

    def steered(texts: Sequence[ReadText], factor: Float[Tensor, " text"]) -> Float[Tensor, " token"]:
        return losses_behind(problem.lm, problem.hook_point, texts, lambda residual: added_or_taken_out(residual, w, factor[:, None, None]))

    return Trainee([w], lambda some_pairs, _: losses(some_pairs, steered), result)


def untrained_loreft(problem: Problem, generator: torch.Generator) -> Trainee[Pair]:
    """What training starts from: random edits. Their result at factor 1 is `MIDDLE` times the trained edit: h + R^T (W' h + b' - R h) with
    W' = m W - (m - 1) R and b' = m b."""
    hook_point = first_hook_point(problem, "reps_loreft")
    layers, edits = new_edits(problem, "reps_loreft", generator)

    def steered(texts: Sequence[ReadText], factor: Float[Tensor, " text"]) -> Float[Tensor, " token"]:
        return edited_losses(problem.lm, hook_point, edits_together(layers, edits), texts, factor)

    def result() -> LowRankSubspace:
        trained_edits = edits_together(layers, edits)
        return replace(trained_edits, W=MIDDLE * trained_edits.W - (MIDDLE - 1) * trained_edits.R, b=MIDDLE * trained_edits.b)

    return Trainee(list(edits.parameters()), lambda some_pairs, _: losses(some_pairs, steered), result)


def untrained_lora(problem: Problem, generator: torch.Generator) -> Trainee[Pair]:
    """What training starts from: an adapter that changes nothing."""
    hook_point = first_hook_point(problem, "reps_lora")
    adapter = new_adapter(problem.lm, adapted_layers(problem, "reps_lora"), generator)
    steered = partial(adapted_losses, problem.lm, hook_point, adapter)
    return trainee_of(adapter, lambda some_pairs, _: losses(some_pairs, steered), MIDDLE)


@torch.no_grad()
def pairs(problem: Problem, hook_point: HookPoint) -> list[Pair]:
    """Each positive text with one that the unsteered model writes after its prompt, both read at a hook point."""
    lm, generator, n = problem.lm, problem.generator("reps pairs"), len(problem.positive)
    rows = pl.DataFrame(
        {
            "row": range(n),
            "intervention": [0] * n,
            "prompt": range(n),
            "factor": [1.0] * n,
            "stream": torch.randint(2**62, (n,), generator=generator).tolist(),
        },
        schema_overrides={"row": pl.UInt32, "stream": pl.UInt64},
    )
    prompts = [text.ids[: text.n_context] for text in problem.positive]
    longest = max(text.n_output for text in problem.positive)
    rooms = pl.Series([min(longest, lm.n_positions - len(prompt)) for prompt in prompts])  # a long prompt leaves less
    frames = []
    for room in rooms.unique().sort():
        sampling = Sampling(room, temperature=1.0, stop="")
        frames += steered_texts(lm, problem.sae, problem.layer, rows.filter(rooms == room), [Nothing()], prompts, sampling)
    written = pl.concat(frames).sort("row")["token_ids"].to_list()
    texts = zip(problem.positive, prompts, written, strict=True)
    plain = [TrainingText(prompt + token_ids[: text.n_output], len(prompt)) for text, prompt, token_ids in texts]
    if any(text.n_output == 0 for text in plain):
        raise Abstains("the model writes nothing after one of the concept's prompts")
    factors = [float(FACTORS[place]) for place in torch.randint(len(FACTORS), (n,), generator=generator).tolist()]
    read = read_texts(lm, hook_point, (*problem.positive, *plain))
    parts = (read[start : start + TEXTS_AT_A_TIME] for start in range(0, len(read), TEXTS_AT_A_TIME))
    log_p = torch.cat([log_probabilities(part, losses_behind(lm, hook_point, part)) for part in parts]).tolist()
    return [Pair(*pair) for pair in zip(read[:n], read[n:], factors, log_p[:n], log_p[n:], strict=True)]


def losses(some_pairs: Sequence[Pair], steered: SteeredLosses) -> Float[Tensor, " pair"]:
    """Mean of -log sigmoid(D+) and -log sigmoid(D-) of each pair."""
    texts = [pair.concept for pair in some_pairs] + [pair.plain for pair in some_pairs]
    factor = torch.tensor([pair.factor for pair in some_pairs] * 2, device=texts[0].value.device)
    log_p = log_probabilities(texts * 2, steered(texts * 2, torch.cat([factor, -factor])))
    concept_length, plain_length = torch.tensor([read.text.n_output for read in texts], device=log_p.device).chunk(2)
    concept_towards, plain_towards, concept_away, plain_away = log_p.chunk(4)
    surprise = torch.tensor([pair.plain_log_p - pair.concept_log_p for pair in some_pairs], device=log_p.device)
    towards = surprise.clamp(min=1) / concept_length * concept_towards - plain_towards / plain_length
    away = (-surprise).clamp(min=1) / plain_length * plain_away - concept_away / concept_length
    return -(nn.functional.logsigmoid(towards) + nn.functional.logsigmoid(away)) / 2


def added_or_taken_out(
    residual: Float[Tensor, "text seq d_model"], w: Float[Tensor, " d_model"], factor: Float[Tensor, "text 1 1"]
) -> Float[Tensor, "text seq d_model"]:
    """The vector added at positive factors, its direction taken out at negative ones, at every position."""
    h = residual.float()
    taken_out = (h @ w).relu()[..., None] * w / (w @ w)
    return (h + torch.where(factor > 0, factor * w, -taken_out)).to(residual.dtype)


def log_probabilities(texts: Sequence[ReadText], losses: Float[Tensor, " token"]) -> Float[Tensor, " text"]:
    """log p(output | prompt) of each text, in nats, of all of its tokens together, from the losses of all texts' tokens."""
    return -torch.stack([part.sum() for part in losses.split([read.text.n_output for read in texts])])
