"""What a steering method is given: one concept's training texts, the model, the layer's SAE with its scored features, and the effects of
steering where they were measured. Nothing of the prompts that it will be judged on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.core.counter_rng import text_keys
from saesteer.engine import models
from saesteer.engine.finite import check_finite
from saesteer.engine.hook_points import HookPoint, reading, sae_hook_point
from saesteer.engine.interventions import Addition
from saesteer.engine.models import MIN_ROWS, LanguageModel
from saesteer.engine.saes import Sae, encode
from saesteer.settings.registry import Training

ALGORITHM_VERSION = 1

TEXTS_AT_A_TIME = MIN_ROWS
"""Every forward over training texts has as many rows (models.MIN_ROWS)."""


class Abstains(Exception):
    """A method has no intervention for a concept: the message says why. Its concept then counts with the unsteered text's score."""


@dataclass(frozen=True)
class TrainingText:
    """A training text: `ids[:n_context]` are the beginning-of-sequence token and the prompt, the rest is its output."""

    ids: list[int]
    n_context: int

    @property
    def n_output(self) -> int:
        """Tokens of the output: those that a loss is the mean of."""
        return len(self.ids) - self.n_context


@dataclass(frozen=True)
class Tokens:
    """Every position that counts of some texts, text after text."""

    residual: Float[Tensor, "token d_model"]  # to which directions are added (hook_points.Reading.value: at hook_z no residual)
    read: Float[Tensor, "token d_read"]  # by the SAE's encoder; the same tensor where it reads the residual
    lengths: list[int]  # how many are of each text

    def by_text(self) -> tuple[Float[Tensor, "token d_model"], ...]:
        """Each text's residuals."""
        return self.residual.split(self.lengths)


@dataclass(frozen=True, eq=False)
class Approximator:
    """P2's linear model of what steering does (arXiv 2411.02193, section 3): effect = x @ M + b, in mean feature activation, of adding x.
    In the host's memory."""

    M: Float[Tensor, "d_model n_features"]
    b: Float[Tensor, " n_features"]
    r2: float  # on vectors that it was not fitted on


@dataclass(frozen=True)
class Problem:
    """One concept at one layer."""

    lm: LanguageModel
    sae: Sae
    layer: int
    concept: str
    positive: tuple[TrainingText, ...]  # texts that show the concept
    negative: tuple[TrainingText, ...]  # texts that do not
    features: pl.DataFrame  # FEATURES rows (saesteer.core.tables) of the layer: the candidates, with their scores
    seed: int
    training: Training  # of methods that learn by gradient descent
    label: int | None = None  # the feature whose label is the concept; None where none is
    effects: Approximator | None = None
    vector: Float[Tensor, " d_model"] | None = None  # of the concept, trained elsewhere
    n_prefix: int | None = None  # vectors leave out this many first tokens of a text; None: all but its output's
    prompts: tuple[str | None, ...] = ()  # written for the concept by a language model; empty: none was asked
    words: tuple[str, ...] = ()  # that stand for the concept
    ordinary_texts: tuple[list[int], ...] = ()  # on which pilot factors are measured; none: methods name their own strength
    loss_rise: float = 1.0  # of these texts at a pilot factor, in nats a token

    @cached_property
    def hook_point(self) -> HookPoint:
        """What the SAE reads, and where every vector is added, also one that is made without the SAE: methods without one work on what
        lies there, the residual but for hook_z."""
        return sae_hook_point(self.lm, self.layer, self.sae.meta)

    @property
    def width(self) -> int:
        """Numbers in a vector that is added at the hook point."""
        return self.sae.W_dec.shape[1]

    @cached_property
    def positive_tokens(self) -> Tokens:
        """What lies at the hook point where the positive texts' tokens count."""
        return tokens(self.lm, self.hook_point, self.positive, self.n_prefix)

    @cached_property
    def negative_tokens(self) -> Tokens:
        """What lies at the hook point where the negative texts' tokens count."""
        return tokens(self.lm, self.hook_point, self.negative, self.n_prefix)

    def pooled_activations(
        self, pooled: Callable[[Tensor], Tensor]
    ) -> tuple[Float[Tensor, "text_p n_features"], Float[Tensor, "text_n n_features"]]:
        """Each positive and each negative text's feature activations [token n_features], pooled over its tokens."""
        positive, negative = (
            torch.stack([pooled(encode(self.sae, rows)) for rows in of_texts.read.split(of_texts.lengths)])
            for of_texts in (self.positive_tokens, self.negative_tokens)
        )
        check_finite("feature activations are", torch.cat([positive, negative]), self.sae.W_enc)
        return positive, negative

    def mean_activations(self) -> tuple[Float[Tensor, "text_p n_features"], Float[Tensor, "text_n n_features"]]:
        """Each positive and each negative text's mean activation of each feature."""
        return self.pooled_activations(lambda activations: activations.mean(dim=0))

    @cached_property
    def largest_activations(self) -> tuple[Float[Tensor, "text_p n_features"], Float[Tensor, "text_n n_features"]]:
        """Each positive and each negative text's largest activation of each feature."""
        return self.pooled_activations(lambda activations: activations.amax(dim=0))

    def generator(self, use: str) -> torch.Generator:
        """Random numbers of this seed, layer, concept and use, whatever else was drawn before; on the CPU."""
        (key,) = text_keys([f"{self.seed}/{self.layer}/{self.concept}/{use}"])
        return torch.Generator().manual_seed(int(key) >> 1)


@torch.no_grad()
def tokens(lm: LanguageModel, hook_point: HookPoint, texts: tuple[TrainingText, ...], n_prefix: int | None = None) -> Tokens:
    """Run texts, `TEXTS_AT_A_TIME` together, and give what lies at the hook point, and what is read there, of their outputs; with
    `n_prefix`, of all their tokens but this many first ones."""
    values, reads = [], []
    for batch in text_batches(texts):
        at_hook_point = reading(lm, padded_ids(lm, batch), hook_point)  # [text seq width]
        for row, text in enumerate(batch):
            counted = slice(text.n_context if n_prefix is None else min(n_prefix, text.n_context), len(text.ids))
            values.append(at_hook_point.value[row, counted])
            reads.append(at_hook_point.read[row, counted])
    residual = torch.cat(values).float()
    return Tokens(
        residual, torch.cat(reads).float() if hook_point.read or hook_point.centred else residual, [len(value) for value in values]
    )


def text_batches(texts: tuple[TrainingText, ...]) -> Iterator[tuple[TrainingText, ...]]:
    """Texts in order, as many as one forward takes."""
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        yield texts[start : start + TEXTS_AT_A_TIME]


def padded_ids(lm: LanguageModel, texts: Sequence[TrainingText]) -> Int[Tensor, "text seq"]:
    """Token ids of texts, padded at the end."""
    return models.padded_ids([text.ids for text in texts]).to(lm.device)


def output_mask(texts: Sequence[TrainingText], device: torch.device) -> Bool[Tensor, "text seq"]:
    """Where padded texts have their output: not the context, not the padding."""
    position = torch.arange(max(len(text.ids) for text in texts))
    starts, ends = (torch.tensor(values)[:, None] for values in zip(*((text.n_context, len(text.ids)) for text in texts), strict=True))
    return ((position >= starts) & (position < ends)).to(device)


def unit(direction: Float[Tensor, " d_model"], otherwise: str | None = None) -> Float[Tensor, " d_model"]:
    """A direction at length 1, as every vector method ends (P4); the method abstains where there is no direction to take, saying
    `otherwise` where that is known better than by the norm."""
    norm = direction.norm()
    if not 0 < float(norm) < float("inf"):
        raise Abstains(otherwise or f"its direction has norm {float(norm):g}")
    return direction / norm


def scaled_addition(problem: Problem, vector: Float[Tensor, " d_model"], features: tuple[int, ...] = ()) -> Addition:
    """Steering with a unit vector: factor 1 adds it times its `steering_scale`; `features` are those of the SAE that it is made of."""
    return Addition(vector, steering_scale(vector, problem.positive_tokens), features=features)


def steering_scale(vector: Float[Tensor, " d_model"], tokens: Tokens) -> float:
    """P4's max_act (arXiv 2501.17148, section 4): the largest activation h . w of a unit vector on the concept's texts.

    Its program takes 50 where that is not positive; here the method abstains.
    """
    largest = float((tokens.residual @ vector.to(tokens.residual)).max())
    if largest <= 0:
        raise Abstains("the vector has no positive activation on the concept's texts")
    return largest
