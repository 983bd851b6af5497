"""How strongly each feature can steer before the model is lost: the factor around which a sweep's grid lies.

P1 (arXiv 2505.20063) has one grid of multiples of a_max for all features. On larger models there is less than a factor of two between
nothing happening and one word being repeated, and where it lies depends on layer and feature. That place is looked for on ordinary texts,
read as for damage (engine.damage): steered from the last token of their prompt on, with each position's own a_max.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from saesteer.engine.damage import N_CONTEXT
from saesteer.engine.finite import rows_named
from saesteer.engine.hook_points import HookPoint, sae_hook_point
from saesteer.engine.loss_rise import VECTORS_AT_A_TIME, UnsteeredTexts, strengths_at_rise, unsteered
from saesteer.engine.models import LanguageModel
from saesteer.engine.saes import Sae, check_features, largest_activation
from saesteer.settings.base import three_digits

ALGORITHM_VERSION = 1

N_ROWS = 5
"""Decoder rows, spread evenly over the SAE, whose median strength says where those of a layer's features are looked for."""

OCTAVES_OF_LAYER = (-9, 3)
"""Theirs are looked for where the norm of what is added lies between 2^-9 and 2^3 times that of what it is added to: in some models a few
numbers make up most of the residual's norm."""

OCTAVES = (-3, 3)
"""A feature's is looked for between an eighth and eight times that median."""

HALVINGS = 4
"""How often each range is halved, in the logarithm, before the rise is interpolated: a feature's down to three eighths of an octave."""

_BEYOND = {-1: "smallest", 0: None, 1: "largest"}


@dataclass(frozen=True)
class _Layer:
    lm: LanguageModel
    sae: Sae
    hook_point: HookPoint
    texts: UnsteeredTexts  # with a_max of each position that is steered
    target: float

    @property
    def unit_share(self) -> float:
        """Norm of a unit vector over that of what it is added to, mean over the tokens counted."""
        a_max, value = (part[self.texts.predicting].double() for part in (self.texts.multiple, self.texts.value))
        return float((a_max / value.norm(dim=1)).mean())

    def norms(self, features: Sequence[int]) -> Float64[Tensor, " feature"]:
        """Norms of the features' decoder rows."""
        return self.sae.W_dec[list(features)].double().norm(dim=1)

    def factors(
        self, features: Sequence[int], strength: float, octaves: tuple[int, int]
    ) -> tuple[Float64[Tensor, " feature"], Int[Tensor, " feature"]]:
        """The factor of each feature and on which side of the range it lies, 0 within: so many octaves around where the multiple of a_max
        times the row's norm is `strength`."""
        low, high = ((strength / self.norms(features)).log2() + octave for octave in octaves)
        with rows_named(f"layer {self.sae.meta.layer}, pilot of features {features[0]} to {features[-1]}"):
            rows = self.sae.W_dec[list(features)].float()
            return strengths_at_rise(self.lm, self.hook_point, rows, self.texts, self.target, (low, high), HALVINGS)


@torch.no_grad()
def pilot_factors(
    lm: LanguageModel, sae: Sae, features: Sequence[int], texts: Sequence[Sequence[int]], target: float
) -> Iterator[pl.DataFrame]:
    """PILOT rows of features: the factor at which steering with each raises the mean loss of texts (token ids, more than `N_CONTEXT` of
    each) by `target` nats a token. A row depends on its feature, the SAE and the texts only."""
    layer = sae.meta.layer
    check_features(features, sae.meta.n_features, f"the SAE of layer {layer}")
    of_layer = _layer(lm, sae, texts, target)
    unit_share = of_layer.unit_share
    _check_adds(of_layer, features, unit_share)
    rows = sae.W_dec.norm(dim=1).nonzero()[:, 0].tolist()
    usual = rows[:: max(1, len(rows) // N_ROWS)][:N_ROWS]
    factors, _ = of_layer.factors(usual, 1 / unit_share, OCTAVES_OF_LAYER)
    strength = float((factors * of_layer.norms(usual)).median())
    for start in range(0, len(features), VECTORS_AT_A_TIME):
        some = list(features[start : start + VECTORS_AT_A_TIME])
        strengths, side = of_layer.factors(some, strength, OCTAVES)
        rounded = list(map(three_digits, strengths.tolist()))
        shares = [float(factor) * norm * unit_share for factor, norm in zip(rounded, of_layer.norms(some).tolist(), strict=True)]
        beyond = [_BEYOND[number] for number in side.tolist()]
        columns = {"layer": [layer] * len(some), "feature": some, "factor": rounded, "norm_share": shares, "beyond": beyond}
        yield pl.DataFrame(columns, schema_overrides={"beyond": pl.String})


def _layer(lm: LanguageModel, sae: Sae, texts: Sequence[Sequence[int]], target: float) -> _Layer:
    hook_point = sae_hook_point(lm, sae.meta.layer, sae.meta)
    plain = unsteered(lm, hook_point, texts, N_CONTEXT)
    a_max = largest_activation(sae, plain.read.flatten(0, 1)).reshape(plain.read.shape[:2]).float()
    is_steered = torch.arange(a_max.shape[1], device=lm.device) >= N_CONTEXT - 1
    return _Layer(lm, sae, hook_point, replace(plain, multiple=a_max * is_steered), target)


def _check_adds(of_layer: _Layer, features: Sequence[int], unit_share: float) -> None:
    """Refuse what adds nothing to the texts at any factor."""
    layer = of_layer.sae.meta.layer
    if unit_share == 0:
        raise ValueError(
            f"no feature of the SAE of layer {layer} is active in the ordinary texts, so that steering adds nothing there: leave the layer"
            " out, or set sweep.pilot to null"
        )
    for feature, norm in zip(features, of_layer.norms(features).tolist(), strict=True):
        if norm == 0:
            raise ValueError(f"feature {layer}/{feature} has a decoder row of zeros, which steers nothing: leave it out")
