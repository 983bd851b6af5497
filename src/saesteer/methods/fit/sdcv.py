"""SDCV, SAE-denoised concept vectors (arXiv 2505.15038): a vector method on residuals rebuilt by the SAE, in which the feature
activations that tell the concept's texts from others are scaled up.

h' = decode(c'), c'_f = `SCALE` * c_f for the `K` features whose mean activation differs most between positive and negative texts, in either
direction, and c_f for the others. What the SAE does not rebuild is left out: the noise that the paper wants out of the vector. The vector
is then fitted to h' as its method fits it to h.

After the paper's abstract and introduction: its equations could not be read. They leave open how features are told apart (here: by the
difference of mean activations over a text, averaged over texts), K and the scale (here: ours).
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saesteer.engine.interventions import Addition
from saesteer.engine.saes import Sae, decode, encode, written_size
from saesteer.methods.fit import probe
from saesteer.methods.fit.fgaa import activation_difference
from saesteer.methods.fit.means import difference_of_means
from saesteer.methods.fit.problem import Problem, Tokens, scaled_addition
from saesteer.methods.fit.training import Trained, trained

K = 20
"""Features scaled up. Ours."""
SCALE = 5.0
"""Ours."""


def diffmean(problem: Problem) -> Addition:
    """DiffMean of denoised residuals."""
    return scaled_addition(problem, difference_of_means(*denoised_tokens(problem)))


def linear_probe(problem: Problem) -> Trained:
    """The linear probe of denoised residuals, trained as that of residuals is, on the same draws."""
    return trained(problem, "probe", probe.untrained, *probe.labelled(*denoised_tokens(problem)))


@torch.no_grad()
def denoised_tokens(problem: Problem) -> tuple[Tokens, Tokens]:
    """The positive and the negative texts' tokens, denoised."""
    difference = activation_difference(problem).abs()
    features = difference.topk(min(K, len(difference))).indices
    positive, negative = (
        replace(tokens, residual=torch.cat([denoised(problem.sae, rows, features) for rows in tokens.read.split(tokens.lengths)]))
        for tokens in (problem.positive_tokens, problem.negative_tokens)
    )
    return positive, negative


def denoised(sae: Sae, read: Float[Tensor, "token d_read"], features: Int[Tensor, " k"]) -> Float[Tensor, "token d_model"]:
    """h' of tokens from what the encoder reads of them."""
    activations = encode(sae, read)
    activations[:, features] *= SCALE
    return decode(sae, activations).float() * written_size(sae.meta, read)[:, None]
