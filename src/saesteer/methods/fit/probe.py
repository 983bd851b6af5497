"""Linear probe (P4, arXiv 2501.17148, section 4): logistic regression that tells tokens of positive texts from those of negative ones;
its weights are the vector.

Constants are those of P4's program (settings/recipes.csv): a batch is 12 texts with all their tokens. That program also brings the weights
to unit norm before each step; here they are free, as those of logistic regression are, and only the direction is kept.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.methods.fit.problem import Problem, Tokens, scaled_addition, unit
from saesteer.methods.fit.training import Trained, Trainee, trained

Labelled = tuple[Tensor, float]
"""A text's residuals [token d_model], and 1 where it shows the concept, else 0."""


def fit(problem: Problem) -> Trained:
    """The trained probe's weights, to unit norm."""
    return trained(problem, "probe", untrained, *labelled(problem.positive_tokens, problem.negative_tokens))


def labelled(positive: Tokens, negative: Tokens) -> tuple[list[Labelled], list[Labelled]]:
    """The positive and the negative texts."""
    return [(rows, 1.0) for rows in positive.by_text()], [(rows, 0.0) for rows in negative.by_text()]


def untrained(problem: Problem, _generator: torch.Generator) -> Trainee[Labelled]:
    """What training starts from: weights and a bias of 0."""
    weights = torch.zeros_like(problem.positive_tokens.residual[0], requires_grad=True)
    bias = torch.zeros_like(weights[0], requires_grad=True)

    def losses(texts: Sequence[Labelled], _progress: float) -> Tensor:
        return cross_entropies(texts, weights, bias)

    return Trainee([weights, bias], losses, lambda: scaled_addition(problem, unit(weights.detach())))


def cross_entropies(texts: Sequence[Labelled], weights: Float[Tensor, " d_model"], bias: Float[Tensor, ""]) -> Float[Tensor, " token"]:
    """-log of the probability that p(positive | h) = sigmoid(h . w + b) gives each token's label, in nats."""
    rows = torch.cat([residuals for residuals, _ in texts])  # [token d_model]
    labels = torch.cat([torch.full_like(residuals[:, 0], label) for residuals, label in texts])
    return nn.functional.binary_cross_entropy_with_logits(rows @ weights + bias, labels, reduction="none")
