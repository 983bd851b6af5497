"""Linear probe (P4, arXiv 2501.17148, section 4): logistic regression that tells tokens of positive texts from those of negative ones;
its weights are the vector.

Learning rate and batches are those of P4's program: a batch is 12 texts with all their tokens, the rate falls in a straight line to 0. That
program also brings the weights to unit norm before each step; here they are free, as those of logistic regression are, and only the
direction is kept.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.engine.interventions import Addition
from saesteer.methods.fit.problem import Problem, Tokens, scaled_addition, unit
from saesteer.methods.fit.training import linear_decay, n_batches, shuffled_batches

BATCH = 12
EPOCHS = 24
LEARNING_RATE = 5e-3
WEIGHT_DECAY = 1e-3


def fit(problem: Problem) -> Addition:
    """The trained probe's weights, to unit norm."""
    return scaled_addition(problem, unit(probe_weights(problem.positive_tokens, problem.negative_tokens, problem.generator("probe"))))


@torch.enable_grad()
def probe_weights(positive: Tokens, negative: Tokens, generator: torch.Generator) -> Float[Tensor, " d_model"]:
    """w of p(positive | h) = sigmoid(h . w + b), trained with AdamW from 0 on the mean cross-entropy over tokens."""
    texts = [(rows, label) for tokens, label in ((positive, 1.0), (negative, 0.0)) for rows in tokens.by_text()]
    weights = torch.zeros(positive.residual.shape[1], device=positive.residual.device, requires_grad=True)
    bias = torch.zeros((), device=weights.device, requires_grad=True)
    optimizer = torch.optim.AdamW([weights, bias], lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = linear_decay(optimizer, n_batches(texts, BATCH, EPOCHS))
    for batch in shuffled_batches(texts, BATCH, EPOCHS, generator):
        rows = torch.cat([some for some, _ in batch])  # [token d_model]
        labels = torch.cat([torch.full_like(some[:, 0], label) for some, label in batch])
        loss = nn.functional.binary_cross_entropy_with_logits(rows @ weights + bias, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return weights.detach()
