"""What a method of a finished comparison fitted for a concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from saesteer.core.errors import SettingsError
from saesteer.core.tables import ASKED_CONCEPTS, FITS
from saesteer.core.tables.methods import METHOD_CHOICES
from saesteer.engine.interventions import Intervention, unpacked
from saesteer.methods.compare.layers import at_every_layer
from saesteer.run import Run, check_known


@dataclass(frozen=True)
class Fit:
    """What a method fitted for a concept, and how hard it is to steer."""

    layer: int
    method: str
    concept: str
    intervention: Intervention
    factor: float
    factor_from: str  # what chose it


def parse_feature(which: str) -> tuple[int, int] | None:
    """LAYER/FEATURE as numbers; None where it is something else."""
    layer, slash, feature = which.partition("/")
    return (int(layer), int(feature)) if slash and layer.isdecimal() and feature.isdecimal() else None


def fit_of(run: Run, method: str, concept: str, layer: int, factor: float | None = None) -> Fit:
    """A fit of a finished comparison; `factor` None: the one that was chosen."""
    check_known("layer", str(layer), [str(known) for known in run.layers])
    fits = at_every_layer(run.rows(FITS, sorted({layer, run.layers[0]})), run.layers).filter(layer=layer)
    check_known("method", method, sorted(set(fits["method"])))
    concepts = dict(run.summary(ASKED_CONCEPTS).select("concept", "concept_id").iter_rows())
    check_known("concept", concept, list(concepts))
    (row,) = fits.filter(method=method, concept_id=concepts[concept]).to_dicts()
    if row["kind"] is None:
        raise SettingsError(f"method {method} abstains for concept {concept!r} at layer {layer}: {row['reason']}")
    strength, factor_from = _chosen_factor(run, row) if factor is None else (factor, "given")
    return Fit(layer, method, concept, unpacked(row["kind"], row["tensors"], row["values"]), strength, factor_from)


def _chosen_factor(run: Run, fit: Mapping[str, Any]) -> tuple[float, str]:
    """The factor that the comparison chose, and in words how. Of two halves' the larger, which does more to the model."""
    choices = run.summary(METHOD_CHOICES)
    mine = choices.filter(pl.col("factor").is_not_null(), **{name: fit[name] for name in FITS.keys})
    factors = sorted(set(mine["factor"].cast(pl.Float64)))
    if not factors:
        raise SettingsError(f"no factor could be chosen for method {fit['method']} and this concept: name one (--factor)")
    return factors[-1], "chosen" if len(factors) == 1 else f"the largest of those that halves chose: {', '.join(map(str, factors))}"
