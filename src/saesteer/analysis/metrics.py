"""The headline numbers: what metrics.json holds, and the table that is pasted into the README.

The three findings are judged by rules, fixed before the shipped world was measured (of (1) the directions only):
(1) the median input score falls and the median output score rises with depth, over at least 6 layers and each beyond chance (p < .05 by
permutation); (2) both scores exceed .5 in under 10 % of features; (3) filtering by output score multiplies mean held-out GenSuccess@20 by
at least 1.5, beyond the random-removal band, and not by the choice of layers alone (p < .05 within layers). They are the claims of P1
(arXiv 2505.20063) in a form that can fail. The third rests on how a factor is chosen, and is judged
under P1's rule and under `capped` (see analysis.best_factor).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saesteer.analysis.best_factor import PERPLEXITIES, RULES, best_factors
from saesteer.analysis.selection import LAYER_SETS, MEASURES
from saesteer.core.tables import BEST_FACTORS
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

MAX_SHARE_BOTH_HIGH = 0.10
MIN_RATIO = 1.5
MIN_LAYERS = 6
"""With 4 layers no order of medians has a p below .05, with 5 only the perfect one."""
_PERMUTATIONS = 40_320
"""Of the p of a rank correlation with depth: all of 8 layers, else as many at random."""
MAX_P = 0.05
OUTCOMES_CORRELATED = ("gen_success_20", "judge_score")
_FEATURE = ["layer", "feature"]
Numbers = dict[str, Any]


def headline(
    features: pl.DataFrame,
    best_factors: pl.DataFrame,
    outcomes: pl.DataFrame,
    selection: pl.DataFrame,
    steering: pl.DataFrame,
    choice: BestFactorSettings,
    settings: SelectionSettings,
) -> Numbers:
    """FEATURES, BEST_FACTORS, OUTCOMES, SELECTION and STEERING -> nested numbers for metrics.json; a number that does not exist is null."""
    rule = choice.rule
    chosen = outcomes.filter(rule=rule).sort(_FEATURE)
    numbers: Numbers = {
        "rule": rule,
        "threshold": settings.headline_threshold,
        "features": _feature_counts(features),
        "layers": _layer_medians(features),
        "depth": _depth(features),
        "both_above_half": _both_above_half(features),
        "filter": {by: {layers: _filter(outcomes, selection, by, layers, settings) for layers in LAYER_SETS} for by in RULES},
        "kept_against_removed": {measure: _kept_removed(chosen, measure, settings) for measure in MEASURES},
        "correlations": {measure: correlations(chosen, measure, settings) for measure in OUTCOMES_CORRELATED},
        "choices": _choices(best_factors.filter(rule=rule)),
        "capped_minus_p1": _rules_difference(outcomes, settings),
        "perplexity": {"used": choice.perplexity} | _by_perplexity(steering, choice),
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
    medians. There is no interval: a model's layers are all there are, no sample."""
    medians = pl.DataFrame(_layer_medians(features))
    numbers: Numbers = {"n_layers": medians.height}
    for score in ("input_score", "output_score"):
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


def _both_above_half(features: pl.DataFrame) -> Numbers:
    scored = features.drop_nulls("input_score")
    both = (scored["input_score"] > 0.5) & (scored["output_score"] > 0.5)
    return {"n": int(both.sum()), "n_scored": scored.height, "share": _share(both)}


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
    and of features of one concept and layer, since a filter that keeps other concepts changes the mean without steering better."""
    present = outcomes.drop_nulls(measure)
    is_kept = pl.col("output_score") >= settings.headline_threshold
    kept, removed = (present.filter(mask)[measure].to_numpy() for mask in (is_kept, ~is_kept))
    interval = difference_interval(kept, removed, settings.confidence, SCALES[measure])
    cell = pl.struct("layer", "concept").rank("dense").cast(pl.Int64)
    values, is_of_kept, cells = (column.to_numpy() for column in present.select(measure, kept=is_kept, cell=cell))
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
    by_scope = {}
    for name, labels in strata.items():
        by_scope[name] = rank_correlation(x, y, labels, settings.confidence)._asdict()
    return by_scope


def _choices(best_factors: pl.DataFrame) -> Numbers:
    """How often the choice of a factor failed, or fell on an end of the grid, where the grid decides."""
    return {
        "n": best_factors.height,
        "n_failed": best_factors["factor"].null_count(),
        "share_at_grid_end": _share(best_factors["at_grid_end"].drop_nulls()),
    }


def _by_perplexity(steering: pl.DataFrame, choice: BestFactorSettings) -> Numbers:
    """Rule -> kind of perplexity that factors are chosen by -> mean GenSuccess@20, and the share of choices that differ from those by the
    kind of the settings."""
    keys = list(BEST_FACTORS.keys)
    chosen = {
        perplexity: best_factors(steering, choice.model_copy(update={"perplexity": perplexity})).sort(keys) for perplexity in PERPLEXITIES
    }

    def numbers(rows: pl.DataFrame, usual: pl.DataFrame) -> Numbers:
        return {"gen_success_20": rows["gen_success_20"].mean(), "share_that_differs": _share(rows["factor"].ne_missing(usual["factor"]))}

    return {
        rule: {
            perplexity: numbers(rows.filter(rule=rule), chosen[choice.perplexity].filter(rule=rule)) for perplexity, rows in chosen.items()
        }
        for rule in RULES
    }


def _rules_difference(outcomes: pl.DataFrame, settings: SelectionSettings) -> Numbers:
    """Held-out GenSuccess@20 under the capped rule minus under P1's, paired by feature."""
    capped, p1 = (outcomes.filter(rule=rule).select(*_FEATURE, "gen_success_20") for rule in ("capped", "p1"))
    pairs = capped.join(p1, on=_FEATURE, suffix="_p1").drop_nulls().sort(_FEATURE)
    a, b = pairs["gen_success_20"].to_numpy(), pairs["gen_success_20_p1"].to_numpy()
    return {"n": pairs.height, **mean_columns("mean", a - b, settings, ends="", scale=of_differences(SUCCESS))}


def _share(mask: pl.Series) -> float | None:
    """Of a Boolean series without nulls; null when it is empty."""
    return int(mask.sum()) / len(mask) if len(mask) else None


def findings(numbers: Mapping[str, Any]) -> dict[str, bool]:
    """Does each finding of P1 hold here? A number that does not exist decides nothing and counts as not shown."""
    depth, share = numbers["depth"], numbers["both_above_half"]["share"]
    return {
        "roles_change_with_depth": _roles_change(depth),
        "both_scores_high_is_rare": share is not None and share < MAX_SHARE_BOTH_HIGH,
        **{f"filter_helps_by_{rule}": _filter_helps(numbers["filter"][rule]["all"]) for rule in RULES},
    }


def _roles_change(depth: Mapping[str, Any]) -> bool:
    (inputs, p_inputs), (outputs, p_outputs) = ((depth[f"rho_{score}"], depth[f"p_{score}"]) for score in ("input_score", "output_score"))
    if inputs is None or outputs is None or depth["n_layers"] < MIN_LAYERS:
        return False
    return bool(inputs < 0 < outputs and max(p_inputs, p_outputs) < MAX_P)


def _filter_helps(gain: Mapping[str, Any]) -> bool:
    ratio, p_value = gain["ratio"]["value"], gain["p_within_layers"]
    if ratio is None or p_value is None:
        return False
    return bool(ratio >= MIN_RATIO and gain["kept"]["mean"] > gain["random"]["high"] and p_value < MAX_P)
