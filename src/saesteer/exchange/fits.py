"""What is steered with: a feature and how hard, or what a method of a finished comparison fitted for a concept."""

import re
from dataclasses import dataclass

import polars as pl

from saesteer.analysis.best_factor import factors_by_judge, recommended_factors
from saesteer.analysis.tables import STEERING
from saesteer.core.errors import SettingsError, check_known
from saesteer.core.texts import SINGLE_FEATURE, of_features
from saesteer.engine.interventions import unpacked
from saesteer.engine.steering import Intervention
from saesteer.methods.compare.protocol import at_every_layer
from saesteer.methods.compare.tables import METHOD_CHOICES
from saesteer.run import Run
from saesteer.settings import Sweep, canonical_factor
from saesteer.settings.registry import key_of
from saesteer.sources.concept_tables import COMPARED_CONCEPTS
from saesteer.steps.concepts import CONCEPTS
from saesteer.steps.fits import FITS
from saesteer.summaries.summary import counted_ratings


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


def not_a_feature(which: str, nor: str = "") -> SettingsError:
    """A refusal of what is written otherwise, such as 6-548."""
    numbers = re.findall(r"\d+", which)
    near = f" Did you mean {'/'.join(numbers)}?" if len(numbers) == 2 else ""
    return SettingsError(f"{which!r} is not LAYER/FEATURE, e.g. 6/548{nor}.{near}")


def method_and_concept(which: str) -> tuple[str, str]:
    """METHOD/CONCEPT as its two names; refused where it is something else."""
    method, slash, concept = which.partition("/")
    if not slash:
        raise SettingsError(f"{which!r} is not METHOD/CONCEPT, e.g. 'diffmean/the sea'")
    return method, concept


def fitted_layer(run: Run, layer: int | None) -> int:
    """The layer that is meant: the comparison's only one where none is named."""
    layers = run.comparison.layers
    if layer is None and len(layers) > 1:
        raise SettingsError(f"{run.name} fits methods at layers {', '.join(map(str, sorted(layers)))}: choose one (--layer)")
    return layers[0] if layer is None else layer


def concept_of(run: Run, layer: int, feature: int) -> str | None:
    """What a feature stands for in the experiment; None where it does not say."""
    concepts = run.rows_if_any(CONCEPTS, [layer]).filter(feature=feature)["concept"].to_list()
    return concepts[0] if concepts else None


def recommended_factor(run: Run, layer: int, feature: int) -> tuple[float, str]:
    """The recommended factor of a feature of a finished sweep, or of the candidates of a recommendation, and what chose it."""
    run.check_layer(layer)
    if isinstance(run.experiment, Sweep) and run.sweep.sweep.edit != "addition":
        raise SettingsError(
            f"{run.name} edits features by {run.sweep.sweep.edit} (sweep.edit) and recommends no factor of an addition: name one (--factor)"
        )
    chosen = _recommended(run, layer, feature) if isinstance(run.experiment, Sweep) else None
    if chosen is None or chosen.is_empty():
        raise SettingsError(f"{run.name} has not steered with feature {layer}/{feature}, so no factor is recommended: name one (--factor)")
    ((_, _, factor, chosen_by),) = chosen.rows()
    if factor is None:
        raise SettingsError(f"feature {layer}/{feature} did not steer at any factor of {run.name}: name one (--factor)")
    return float(factor), f"recommended: chosen by {chosen_by}"


def _recommended(run: Run, layer: int, feature: int) -> pl.DataFrame:
    """The feature's row of `recommended_factors`; of candidates, which have ratings and no tables, by these. No row: not steered with."""
    steering = run.summary_if_any(STEERING)
    if steering is not None:
        return recommended_factors(steering.filter(layer=layer, feature=feature), run.sweep.best_factor)
    rated = counted_ratings(run, [layer]).filter(method=SINGLE_FEATURE, target=str(feature))
    means = of_features(rated).group_by("layer", "feature", "factor").agg(pl.col("judge_score").mean())
    return factors_by_judge(means)


def fit_of(run: Run, method: str, concept: str, layer: int, factor: float | None = None) -> Fit:
    """A fit of a finished comparison; `factor` None: the one that was chosen, of two halves' the larger, which does more to the model."""
    run.check_layer(layer)
    method = key_of(method)
    fits = at_every_layer(run.rows(FITS, sorted({layer, run.layers[0]})), run.layers).filter(layer=layer)
    check_known("method", method, sorted(set(fits["method"])))
    concepts = dict(run.summary(COMPARED_CONCEPTS).select("concept", "concept_id").iter_rows())
    check_known("concept", concept, list(concepts))
    (row,) = fits.filter(method=method, concept_id=concepts[concept]).to_dicts()
    if row["kind"] is None:
        raise SettingsError(f"method {method} abstains for concept {concept!r} at layer {layer}: {row['reason']}")
    intervention = unpacked(row["kind"], row["tensors"], row["values"])
    if factor is not None:
        return Fit(layer, method, concept, intervention, float(canonical_factor(factor)), "given")
    choices = run.summary(METHOD_CHOICES).filter(pl.col("factor").is_not_null(), **{name: row[name] for name in FITS.keys})
    factors = sorted(set(choices["factor"].cast(pl.Float64)))
    if not factors:
        raise SettingsError(f"no factor could be chosen for method {method} and this concept: name one (--factor)")
    factor_from = "chosen" if len(factors) == 1 else f"the largest of those that halves chose: {', '.join(map(str, factors))}"
    return Fit(layer, method, concept, intervention, factors[-1], factor_from)
