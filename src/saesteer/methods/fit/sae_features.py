"""What the methods share that steer with SAE features: which features can be taken, how well each tells the concept's texts from others,
and how a feature becomes a vector."""

from collections.abc import Iterator
from contextlib import contextmanager

import polars as pl
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saesteer.engine.hook_points import HookPoint, steered
from saesteer.engine.interventions import ActivationEdit, Addition
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import written_size
from saesteer.methods.fit.problem import Abstains, Problem, scaled_addition, unit

ALGORITHM_VERSION = 1

DETECTS = 0.7
"""Smallest AUROC of a feature that is counted as one of the concept's. Ours: papers that filter start from a feature with a label."""


def candidates(problem: Problem) -> pl.DataFrame:
    """The layer's scored features with a positive max activation, lowest id first: FEATURES rows. A feature that was never active has no
    strength to be steered with, and one whose decoder row is zero no direction."""
    rows = scored(problem.features, "decoder_norm", problem.sae.W_dec.norm(dim=1))
    rows = rows.filter(pl.col("max_activation") > 0, pl.col("decoder_norm") > 0).sort("feature")
    if rows.is_empty():
        raise Abstains("none of the layer's scored features was ever active")
    return rows


def scored(rows: pl.DataFrame, name: str, values: Float[Tensor, " n_features"]) -> pl.DataFrame:
    """Rows with one more column: of values that are given for every feature of the SAE, each row's own."""
    return rows.with_columns(pl.Series(name, values.double().cpu().numpy()[rows["feature"].to_numpy()]))


def auroc(positive: Float[Tensor, "text_p feature"], negative: Float[Tensor, "text_n feature"]) -> Float64[Tensor, " feature"]:
    """Each feature's area under the ROC curve, in [0, 1]: the share of (positive, negative) pairs of texts that its values put in the right
    order, a tie counting one half (Mann and Whitney's U over the number of pairs)."""
    sorted_negative = negative.T.contiguous().sort(dim=1).values  # [feature text_n]
    values = positive.T.contiguous()
    below = torch.searchsorted(sorted_negative, values)
    not_above = torch.searchsorted(sorted_negative, values, right=True)
    return (below + not_above).sum(dim=1).double() / (2 * len(positive) * len(negative))


def with_auroc(problem: Problem) -> pl.DataFrame:
    """The candidates with a column `auroc`: of a text's largest activation, on the training texts (P4's SAE-A, arXiv 2501.17148)."""
    return scored(candidates(problem), "auroc", auroc(*problem.largest_activations))


def detectors(problem: Problem) -> pl.DataFrame:
    """The concept's features: candidates, with `auroc`, that tell its texts from others (`DETECTS`)."""
    rows = with_auroc(problem).filter(pl.col("auroc") >= DETECTS)
    if rows.is_empty():
        raise Abstains(f"no feature tells the concept's texts from others (AUROC of at least {DETECTS})")
    return rows


def ranked(rows: pl.DataFrame, by: str) -> pl.DataFrame:
    """Rows from the highest to the lowest of a column; equals by feature, lowest first."""
    return rows.sort(by, "feature", descending=[True, False])


def best(rows: pl.DataFrame, by: str, otherwise: str) -> int:
    """The feature with the highest of a column, the lowest id among equals; abstains, saying `otherwise`, where there is no row."""
    if rows.is_empty():
        raise Abstains(otherwise)
    return int(ranked(rows, by)["feature"][0])


def labelled(problem: Problem) -> int:
    """The feature whose label is the concept."""
    if problem.label is None:
        raise Abstains("no feature is labelled with the concept")
    return problem.label


def with_label(problem: Problem) -> pl.DataFrame:
    """The candidates labelled with the concept: by what they stand for, or as the list of concepts says."""
    return candidates(problem).filter((pl.col("concept") == problem.concept) | (pl.col("feature") == labelled(problem)))


def max_activation(problem: Problem, feature: int) -> float:
    """A feature's max_act: its max activation (P4, arXiv 2501.17148). P4's program takes 50 where that is not positive; here the method
    abstains."""
    rows = problem.features.filter(pl.col("feature") == feature)
    if rows.is_empty():
        raise Abstains(f"feature {feature} is not among the layer's scored features")
    activation = rows["max_activation"][0]
    if activation is None or activation <= 0:
        raise Abstains(f"feature {feature} has no positive example")
    return float(activation)


def direction(problem: Problem, feature: int) -> Float[Tensor, " d_model"]:
    """A feature's decoder direction, to unit norm."""
    return unit(problem.sae.W_dec[feature].float(), f"the decoder row of feature {feature} is zero")


def addition(problem: Problem, feature: int, activation: float | None = None) -> Addition:
    """Steering with one feature: factor 1 adds max_act * W_dec[f] everywhere (P4, arXiv 2501.17148, section 4), what the feature writes at
    its max activation, or at another."""
    return Addition(*written(problem, feature, activation), features=(feature,))


def written(problem: Problem, feature: int, activation: float | None = None) -> tuple[Float[Tensor, " d_model"], float]:
    """What a feature writes at its max activation, or at another: its decoder direction, and how far along it. Decoder rows have unit norm
    in most SAEs; where they have not, the norm is part of the length. An SAE that divides its input by its size writes in units of that
    size: the median over the concept's texts."""
    length = max_activation(problem, feature) if activation is None else activation
    if problem.sae.meta.scale is not None:
        length *= float(written_size(problem.sae.meta, problem.positive_tokens.read).median())
    return direction(problem, feature), length * float(problem.sae.W_dec[feature].float().norm())


def combination(problem: Problem, features: list[int], activations: Float[Tensor, " feature"]) -> Addition:
    """Steering with several features at once: the sum of activations * W_dec[f], as one vector like any other."""
    of_each = activations[:, None] * problem.sae.W_dec[features].float()  # [feature d_model]
    return scaled_addition(problem, unit(of_each.sum(dim=0), "what its features write adds up to nothing"), tuple(features))


def at_max_activations(problem: Problem, features: list[int]) -> ActivationEdit:
    """Features' activations set, at factor 1, to each one's max activation."""
    values = torch.tensor([max_activation(problem, feature) for feature in features], device=problem.lm.device)
    return ActivationEdit(torch.tensor(features, device=problem.lm.device), values)


@contextmanager
def residual_as_leaf(lm: LanguageModel, hook_point: HookPoint) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within the context, what a forward has where a hook point's directions are added is cut off from what made it and put into the list
    that is given, as the leaf that gradients are taken with respect to, with what the encoder reads."""
    leaves: list[tuple[Tensor, Tensor]] = []

    def leaf(residual: Tensor, read: Tensor) -> Tensor:
        leaves.append((residual.detach().requires_grad_(), read.detach()))
        return leaves[-1][0]

    with steered(lm, hook_point, leaf):
        yield leaves
