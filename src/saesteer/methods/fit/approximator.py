"""P2's linear model of what steering does (SAE-TS, arXiv 2411.02193, section 3): effect = x @ M + b for a direction x.

P2 minimises the squared error with Adam (2e-4, 15 epochs of 50,000 vectors in batches of 64, cosine schedule). Here there are far fewer
vectors, so the same loss is minimised exactly, with a ridge penalty on M (not on b) whose strength is that of least leave-one-out error
among the fitted vectors: deterministic, and nothing held out is looked at. As in P2's program, x is the direction to unit norm, whatever
its scale was when its effect was measured: the scale is the one at which every vector harms the text equally.
"""

import logging

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float64
from numpy import ndarray

from saesteer.methods.fit.problem import Approximator

ALGORITHM_VERSION = 1

PENALTIES = tuple(10.0**power for power in range(-8, 5))
"""Strengths tried, in multiples of the directions' mean squared singular value."""

FEATURES_AT_A_TIME = 16_384
"""Features whose effects are in memory in float64 together: those of a wide SAE on many vectors are tens of gigabytes."""

log = logging.getLogger(__name__)


def fitted(effects: pl.DataFrame, n_held_out: int) -> Approximator:
    """Fit one layer's EFFECTS rows but the `n_held_out` of lowest vector number (those stay the same when vectors are added), on which R2
    is measured: 1 - SSE / SST pooled over vectors and features, SST about the fitted vectors' mean effect. Of more vectors than the SAE has
    features R2 is optimistic, since sums with held-out rows are fitted (effect_questions leaves them out). Tensors: float32, CPU."""
    ordered = effects.sort("vector")
    x, y = (ordered[name].list.to_array(len(ordered[name][0])).to_numpy() for name in ("direction", "effect"))  # [vector width]
    x = x.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    M, b, penalty = ridge(x[n_held_out:], y[n_held_out:])
    held_out = y[:n_held_out].astype(np.float64)
    spread = float(((held_out - y[n_held_out:].mean(axis=0, dtype=np.float64)) ** 2).sum())
    if spread == 0:
        raise ValueError("the held-out vectors all have the fitted ones' mean effect, so R2 has no meaning: was anything steered?")
    r2 = 1 - float(((held_out - (x[:n_held_out] @ M + b)) ** 2).sum()) / spread
    log.info("approximator of effects: %d vectors, relative penalty %g, held-out R2 %.4f", len(x) - n_held_out, penalty, r2)
    return Approximator(torch.from_numpy(M).float(), torch.from_numpy(b).float(), r2)


def ridge(
    x: Float64[ndarray, "vector d_model"], y: Float[ndarray, "vector n_features"]
) -> tuple[Float64[ndarray, "d_model n_features"], Float64[ndarray, " n_features"], float]:
    """M and b that minimise |x M + b - y|^2 + penalty |M|^2, and the penalty of `PENALTIES` (as a multiple) of least leave-one-out error.

    From one SVD U s V^T of the centred x: with hat matrix H (the mean's 1/n on its diagonal too), leaving a vector out makes its residual
    r_i become r_i / (1 - H_ii). With p = U^T y, e = y - U p and the shares c that a penalty takes off p, the residuals are e + U c p, and
    |r_i|^2 = |e_i|^2 + 2 (U c)_i . (e p^T)_i + (U c)_i p p^T (U c)_i^T: no penalty costs a product over features. In float64,
    `FEATURES_AT_A_TIME`.
    """
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0, dtype=np.float64)
    U, s, Vt = np.linalg.svd(x - x_mean, full_matrices=False)
    penalties = [penalty * float((s**2).mean()) for penalty in PENALTIES]
    shares = [1 - (U**2 @ (s**2 / (s**2 + penalty))) - 1 / len(x) for penalty in penalties]  # 1 - H_ii
    projected = np.empty((len(s), y.shape[1]))
    squared_error, crossed, gram = np.zeros(len(x)), np.zeros(U.shape), np.zeros((len(s), len(s)))  # |e_i|^2, e p^T, p p^T
    for start in range(0, y.shape[1], FEATURES_AT_A_TIME):
        block = slice(start, start + FEATURES_AT_A_TIME)
        centred = y[:, block].astype(np.float64) - y_mean[block]
        projected[:, block] = part = U.T @ centred
        error = centred - U @ part
        squared_error += (error**2).sum(axis=1)
        crossed += error @ part.T
        gram += part @ part.T
    taken_off = [U * (penalty / (s**2 + penalty)) for penalty in penalties]
    squared = [squared_error + 2 * (rows * crossed).sum(axis=1) + ((rows @ gram) * rows).sum(axis=1) for rows in taken_off]  # |r_i|^2
    best = int(np.argmin([float((residual / share**2).sum()) for residual, share in zip(squared, shares, strict=True)]))
    M = Vt.T @ ((s / (s**2 + penalties[best]))[:, None] * projected)
    return M, y_mean - x_mean @ M, PENALTIES[best]
