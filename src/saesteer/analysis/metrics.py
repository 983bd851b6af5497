"""The headline numbers: what metrics.json holds, and the table that is pasted into the README.

The three findings of P1 (arXiv 2505.20063), and the third by another success, are judged by rules in a form that can fail:
(1) the median input score falls and the median output score rises with depth, over at least 6 layers and each beyond chance (p < .05 by
permutation);
(2) fewer features than by chance have both scores above .5: the ratio to independence within layers, with its whole interval, is below 1;
(3) filtering by output score multiplies mean net GenSuccess@20 by at least 1.5, and not by the choice of layers alone (two-sided p < .05
within layers). Net: minus that of the same prompts' unsteered texts, which a filter can raise too;
(4) the same of the net concept rating without the feature's lens tokens, which the output score does not count.
A finding holds where the numbers show it: the last two in the registered variant of the analysis and in most of the others
(analysis.selection), and with at least 10 features kept. It does not hold where they exclude it, and is open otherwise.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.best_factor import RULES
from saesteer.analysis.selection import CONTROLS, LAYER_SETS, MEASURES
from saesteer.core.uncertainty import (
    SCALES,
    SUCCESS,
    difference_interval,
    interval_columns,
    mean_columns,
    of_differences,
    rank_correlation,
    ratio_interval,
    within_difference,
)
from saesteer.settings import BestFactorSettings, SelectionSettings

HOLDS, OPEN, DOES_NOT_HOLD = "holds", "open", "does not hold"
MIN_RATIO = 1.5
MIN_KEPT = 10
MIN_LAYERS = 6
"""With 4 layers no order of medians has a p below .05, with 5 only the perfect one."""
_PERMUTATIONS = 40_320
"""Permutations behind the p of a rank correlation with depth: all those of 8 layers, or as many drawn at random."""
MAX_P = 0.05
NET, OUTSIDE = "net_gen_success_20", "net_concept_outside"
OUTCOMES_CORRELATED = ("gen_success_20", "net_gen_success_20", "judge_score")
_FEATURE = ["layer", "feature"]
Numbers = dict[str, Any]


def headline(
    features: pl.DataFrame,
    best_factors: pl.DataFrame,
    outcomes: pl.DataFrame,
    selection: pl.DataFrame,
    variants: pl.DataFrame,
    choice: BestFactorSettings,
    settings: SelectionSettings,
    strengths: pl.DataFrame | None = None,
) -> Numbers:
    """FEATURES, BEST_FACTORS, OUTCOMES, SELECTION, FILTER_VARIANTS and, of a sweep with a pilot, CHOSEN_STRENGTHS -> nested numbers for
    metrics.json; a number that does not exist is null."""
    rule = choice.rule
    chosen = outcomes.filter(rule=rule).sort(_FEATURE)
    numbers: Numbers = {
        "rule": rule,
        "threshold": settings.headline_threshold,
        "features": _feature_counts(features),
        "layers": _layer_medians(features),
        "depth": _depth(features),
        "both_above_half": _both_above_half(features, settings.confidence),
        "filter": {
            by: {
                layers: _filter(outcomes, selection, by, layers, settings) | {"net": _net(variants, by, layers, choice, NET)}
                for layers in LAYER_SETS
            }
            for by in RULES
        },
        "kept_against_removed": {measure: _kept_removed(chosen, measure, settings) for measure in MEASURES},
        "correlations": {measure: correlations(chosen, measure, settings) for measure in OUTCOMES_CORRELATED},
        "choices": {by: _choices(best_factors.filter(rule=by)) | _norm_shares(strengths, by) for by in RULES},
        "capped_minus_p1": _rules_difference(outcomes, settings),
        "unsteered": _unsteered(chosen, settings),
        "variants": _variants(variants.filter(success=NET, layers="all")),
        "outside": {by: _net(variants, by, "all", choice, OUTSIDE) for by in RULES}
        | {"variants": _variants(variants.filter(success=OUTSIDE, layers="all"))},
    }
    return numbers | {"findings": findings(numbers)}


def _feature_counts(features: pl.DataFrame) -> Numbers:
    return {
        "n": features.height,
        "n_never_active": features["max_activation"].null_count(),
        "n_without_input_score": features["input_score"].null_count(),
        "n_with_concept": features.height - features["concept"].null_count(),
        "share_with_concept": _share(features["concept"].is_not_null()),
    }


def _layer_medians(features: pl.DataFrame) -> list[Numbers]:
    """Per layer, ascending."""
    return [
        {
            "layer": int(group["layer"][0]),
            "n": group.height,
            "median_input_score": group["input_score"].median(),
            "median_output_score": group["output_score"].median(),
        }
        for group in features.sort(_FEATURE).partition_by("layer")
    ]


def _depth(features: pl.DataFrame) -> Numbers:
    """Spearman's rho over layers of depth with the layer's median score, and its two-sided p; null with fewer than 2 layers or equal
    medians. There is no interval: a model's layers are all there are, no sample. n_layers: layers with both medians."""
    medians = pl.DataFrame(_layer_medians(features))
    scores = ("input_score", "output_score")
    numbers: Numbers = {"n_layers": medians.drop_nulls([f"median_{score}" for score in scores]).height}
    for score in scores:
        layers, values = medians.drop_nulls(f"median_{score}").select("layer", f"median_{score}").to_numpy().T.astype(float)
        varies = len(set(values)) > 1
        numbers |= {f"rho_{score}": _spearman(layers, values) if varies else None}
        numbers |= {f"p_{score}": _permutation_p(layers, values) if varies else None}
    return numbers


def _spearman(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    from scipy.stats import spearmanr  # slow to import, and the dry run imports the figures that import this module

    return float(spearmanr(x, y).statistic)


def _permutation_p(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Two-sided p of Spearman's rho: the share of orders of y that correlate as much with x."""
    from scipy.stats import permutation_test, rankdata  # slow to import, and the dry run imports the figures that import this module

    a, b = (rankdata(side) - (len(side) + 1) / 2 for side in (x, y))
    correlated = permutation_test(
        (b,), lambda ranks, axis: (ranks * a).sum(axis), vectorized=True, permutation_type="pairings", n_resamples=_PERMUTATIONS, rng=0
    )
    return float(correlated.pvalue)


def _both_above_half(features: pl.DataFrame, confidence: float) -> Numbers:
    """How many features have both scores above .5, and how many times as many that is as if the two were independent within layers."""
    scored = features.drop_nulls("input_score").sort(_FEATURE)
    inputs, outputs = (scored[f"{score}_score"].to_numpy() > 0.5 for score in ("input", "output"))
    layers = scored["layer"].cast(pl.Int64).to_numpy()
    to_independence = ratio_interval(inputs.astype(np.float64), outputs, layers, confidence).within
    return {
        "n": int((inputs & outputs).sum()),
        "n_scored": scored.height,
        "share": _share(pl.Series(inputs & outputs)),
        "n_output_high": int(outputs.sum()),
        "to_independence": interval_columns("value", to_independence.value, to_independence.interval, ends=""),
    }


def _net(variants: pl.DataFrame, rule: str, layers: str, choice: BestFactorSettings, success: str) -> Numbers:
    """The filter's net gain in a success, with factors chosen as the settings say but for the rule."""
    settings = {"factor_choice": choice.factor_choice, "perplexity": choice.perplexity}
    row = variants.filter(success=success, rule=rule, layers=layers, **settings).row(0, named=True)
    gains = {name: {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]} for name in ("ratio", *CONTROLS)}
    return gains | {name: row[name] for name in ("n_features", "mean", "kept_mean", *(f"p_{control}" for control in CONTROLS))}


def _unsteered(outcomes: pl.DataFrame, settings: SelectionSettings) -> Numbers:
    """How many times the filter raises the success of the same prompts' unsteered texts: over all, and within layers."""
    members = outcomes.drop_nulls("net_gen_success_20")
    values = (members["gen_success_20"] - members["net_gen_success_20"]).to_numpy()
    is_kept = members["output_score"].to_numpy() >= settings.headline_threshold
    gain = ratio_interval(values, is_kept, members["layer"].cast(pl.Int64).to_numpy(), settings.confidence)
    ratios = {"ratio": gain.ratio, "within_layers": gain.within}
    return {name: interval_columns("value", estimate.value, estimate.interval, ends="") for name, estimate in ratios.items()}


def _variants(variants: pl.DataFrame) -> Numbers:
    """How many variants of the filter's gain in a success over all layers show it, and how many exclude it."""
    is_better_within = (pl.col("within_layers") > 1) & (pl.col("p_within_layers") < MAX_P)
    shows = (pl.col("ratio") >= MIN_RATIO) & is_better_within
    excludes = pl.col("ratio_high") < MIN_RATIO
    counted = variants.select("is_registered", "n_kept", shows=shows.fill_null(False), excludes=excludes.fill_null(False))
    registered = counted.filter("is_registered").row(0, named=True)
    return {
        "n": counted.height,
        "n_showing": int(counted["shows"].sum()),
        "n_excluding": int(counted["excludes"].sum()),
        "registered": _registered(registered),
    }


def _registered(variant: Mapping[str, Any]) -> str:
    if variant["n_kept"] < MIN_KEPT or variant["shows"] == variant["excludes"]:
        return OPEN
    return HOLDS if variant["shows"] else DOES_NOT_HOLD


def _filter(outcomes: pl.DataFrame, selection: pl.DataFrame, rule: str, layers: str, settings: SelectionSettings) -> Numbers:
    """GenSuccess@20 without filter and at the threshold, with the controls: how many times it is larger, as the product of what the kept
    features' layers give and of what the choice inside layers gives."""
    threshold = settings.headline_threshold
    curve = selection.filter(rule=rule, measure="gen_success_20", layers=layers)
    unfiltered, kept = (curve.row(by_predicate=pl.col("threshold") == at, named=True) for at in (0.0, threshold))
    first_layer = 0 if layers == "all" else settings.late_layers_from
    members = outcomes.filter(pl.col("layer") >= first_layer, rule=rule).drop_nulls("gen_success_20")
    values, is_kept = members["gen_success_20"].to_numpy(), members["output_score"].to_numpy() >= threshold
    ratios = ratio_interval(values, is_kept, members["layer"].cast(pl.Int64).to_numpy(), settings.confidence)._asdict()
    return {
        "unfiltered": {name: unfiltered[name] for name in ("mean", "low", "high")} | {"n": unfiltered["n_kept"]},
        "kept": {name: kept[name] for name in ("mean", "low", "high")} | {"n": kept["n_kept"]},
        "removed_mean": kept["removed_mean"],
        **{name: interval_columns("value", estimate.value, estimate.interval, ends="") for name, estimate in ratios.items()},
        "random": {"mean": kept["random_mean"], "low": kept["random_low"], "high": kept["random_high"]},
        "p_within_layers": kept["p_within_layers"],
    }


def _kept_removed(outcomes: pl.DataFrame, measure: str, settings: SelectionSettings) -> Numbers:
    """Means of kept and removed features at the headline threshold, and the difference with its interval (the groups are unpaired): of all,
    and of features of one concept and layer, since a filter that keeps other concepts changes the mean without steering better; features
    without a concept are not compared there."""
    present = outcomes.drop_nulls(measure)
    is_kept = pl.col("output_score") >= settings.headline_threshold
    kept, removed = (present.filter(mask)[measure].to_numpy() for mask in (is_kept, ~is_kept))
    interval = difference_interval(kept, removed, settings.confidence, SCALES[measure])
    cell = pl.struct("layer", "concept").rank("dense").cast(pl.Int64)
    named = present.drop_nulls("concept").select(measure, kept=is_kept, cell=cell)
    values, is_of_kept, cells = (column.to_numpy() for column in named)
    within = within_difference(values, is_of_kept, cells, settings.confidence)
    means = [float(group.mean()) if len(group) else None for group in (kept, removed)]
    difference = means[0] - means[1] if means[0] is not None and means[1] is not None else None
    return {
        "kept": {"n": len(kept), "mean": means[0]},
        "removed": {"n": len(removed), "mean": means[1]},
        **interval_columns("difference", difference, interval, ends=""),
        "within": interval_columns("difference", within.value, within.interval, ends=""),
        "n_missing": outcomes.height - present.height,
    }


def correlations(outcomes: pl.DataFrame, measure: str, settings: SelectionSettings) -> dict[str, Numbers]:
    """Rank correlation of the output score with a measure, feature by feature: over all features, and inside layers."""
    present = outcomes.drop_nulls(measure)
    x, y = present["output_score"].to_numpy(), present[measure].to_numpy()
    layers = present["layer"].cast(pl.Int64).to_numpy()
    strata = {"overall": np.zeros_like(layers), "within_layers": layers}
    return {scope: rank_correlation(x, y, labels, settings.confidence)._asdict() for scope, labels in strata.items()}


def _choices(best_factors: pl.DataFrame) -> Numbers:
    """How often the choice of a factor failed, and how many of the others fell on an end of the grid, where the grid decides."""
    at_end = best_factors["at_grid_end"].drop_nulls()
    return {
        "n": best_factors.height,
        "n_failed": best_factors["factor"].null_count(),
        "n_at_grid_end": int(at_end.sum()),
        "share_at_grid_end": _share(at_end),
    }


def _norm_shares(strengths: pl.DataFrame | None, rule: str) -> Numbers:
    """Quartiles of the chosen factors' norm shares; nothing without a pilot, which measures them."""
    if strengths is None:
        return {}
    shares = strengths.filter(rule=rule)["norm_share"].drop_nulls()
    quartiles = {"low": 0.25, "median": 0.5, "high": 0.75}
    return {"norm_share": {name: shares.quantile(at, "linear") for name, at in quartiles.items()}}


def _rules_difference(outcomes: pl.DataFrame, settings: SelectionSettings) -> Numbers:
    """Held-out GenSuccess@20 under the capped rule minus under P1's, paired by feature."""
    capped, p1 = (outcomes.filter(rule=rule).select(*_FEATURE, "gen_success_20") for rule in ("capped", "p1"))
    pairs = capped.join(p1, on=_FEATURE, suffix="_p1").drop_nulls().sort(_FEATURE)
    a, b = pairs["gen_success_20"].to_numpy(), pairs["gen_success_20_p1"].to_numpy()
    return {"n": pairs.height, **mean_columns("mean", a - b, settings.confidence, ends="", scale=of_differences(SUCCESS))}


def _share(mask: pl.Series) -> float | None:
    """Share of trues in a Boolean series without nulls; null when it is empty."""
    return int(mask.sum()) / len(mask) if len(mask) else None


def findings(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Does each finding of P1 hold here? A number that does not exist decides nothing."""
    return {
        "roles_change_with_depth": _roles_change(numbers["depth"]),
        "both_scores_high_is_rare": _is_below(numbers["both_above_half"]["to_independence"]),
        "filter_helps": _filter_helps(numbers["variants"]),
        "filter_helps_without_lens_tokens": _filter_helps(numbers["outside"]["variants"]),
    }


def _roles_change(depth: Mapping[str, Any]) -> str:
    (inputs, p_inputs), (outputs, p_outputs) = ((depth[f"rho_{score}"], depth[f"p_{score}"]) for score in ("input_score", "output_score"))
    if inputs is None or outputs is None or depth["n_layers"] < MIN_LAYERS:
        return OPEN
    if inputs < 0 < outputs and max(p_inputs, p_outputs) < MAX_P:
        return HOLDS
    return DOES_NOT_HOLD if (inputs > 0 and p_inputs < MAX_P) or (outputs < 0 and p_outputs < MAX_P) else OPEN


def _is_below(ratio: Mapping[str, Any]) -> str:
    if ratio["low"] is None:
        return OPEN
    return HOLDS if ratio["high"] < 1 else DOES_NOT_HOLD if ratio["low"] > 1 else OPEN


def _filter_helps(variants: Mapping[str, Any]) -> str:
    """The registered variant's verdict, which holds only where most variants show the gain."""
    verdict: str = variants["registered"]
    return OPEN if verdict == HOLDS and variants["n_showing"] <= variants["n"] / 2 else verdict
