"""What the output score says of steering: filtering by it against removing as many at random and against depth alone, the filter's gain in
every variant of the analysis, and success at each factor by bins of the score.

P1 (arXiv 2505.20063, section 4) keeps features whose output score reaches a threshold and compares with random removal, 10 draws.
Here the control has many draws and a band, and a permutation test inside layers asks whether the gain is more than the choice of
late layers: the measure is permuted among the features of each layer, which keeps every layer's share of kept features. Draws are shared by
all thresholds of a curve, so neighbouring points are compared on the same draws and adding a threshold changes no other row.

One number alone may owe more to how it was computed, so the gain has variants: the factor chosen on other prompts than are reported on, or
on the same (P1's procedure); by each perplexity; by each rule for the factor. Of each GenSuccess@20 as P1 has it and net of the same
prompts' unsteered texts, and the net concept rating without lens tokens; over all layers and the late ones, with three controls: features
of the same layer, and of the same layer with a like frequency of their top logit-lens tokens in unsteered texts or with a like density.
"""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from saesteer.analysis.best_factor import PERPLEXITIES, RULES, best_factors, both_halves, outcomes
from saesteer.analysis.tables import FACTOR_BINS, FILTER_VARIANTS, SELECTION
from saesteer.core.uncertainty import SCALES, SUCCESS, interval_columns, mean_columns, quantile_interval, random_stream, ratio_interval
from saesteer.settings import BestFactorSettings, SelectionSettings

MEASURES = ("gen_success_20", "net_gen_success_20", "judge_score", "concept_rating", "fluency_rating")
LAYER_SETS = ("all", "late")
FACTOR_CHOICES = ("held_out", "same_texts")
SUCCESSES = ("gen_success_20", "net_gen_success_20", "net_concept_outside")
"""The last counts no top logit-lens tokens, which the output score ranks: it is the concept rating of a text without them."""
CONTROLS = {"within_layers": None, "matched": "frequency", "matched_density": "density"}
"""By what the features are alike that the kept ones are compared with, besides their layer."""
BINS = 4
"""Bins of a layer's features by frequency or by density, of equal size."""
EDGES = (0.0, 0.01, 0.1, 0.3, 1.0)
"""Edges of the bins of output scores in `factor_bins`: the filter's threshold, and values below and above it."""
_PERMUTATION_BLOCK = 1000  # permutations held in memory at a time


def selection(outcomes: pl.DataFrame, settings: SelectionSettings) -> pl.DataFrame:
    """OUTCOMES -> SELECTION: a row for each rule, measure, set of layers and threshold."""
    rows = []
    for rule in outcomes["rule"].unique().sort():
        features = outcomes.filter(rule=rule).sort("layer", "feature")
        for layers in LAYER_SETS:
            chosen = features if layers == "all" else features.filter(pl.col("layer") >= settings.late_layers_from)
            for measure in MEASURES:
                label = {"rule": rule, "measure": measure, "layers": layers}
                rows += [label | row for row in _curve(chosen, measure, settings, tuple(label.values()))]
    return pl.DataFrame(rows, schema=SELECTION.schema)


def grid(settings: SelectionSettings) -> Float[np.ndarray, " threshold"]:
    """The thresholds, ascending: those of the settings, the headline's, and 0 (no filter)."""
    return np.unique([0.0, settings.headline_threshold, *settings.thresholds])


def _curve(features: pl.DataFrame, measure: str, settings: SelectionSettings, label: tuple[str, ...]) -> list[dict[str, Any]]:
    present = features.filter(pl.col(measure).is_not_null())
    values, scores = present[measure].to_numpy(), present["output_score"].to_numpy()
    thresholds = grid(settings)
    counts = (scores[None, :] >= thresholds[:, None]).sum(axis=1)
    removal = random_removal(values, counts, settings.random_draws, random_stream(settings.seed, "removal", *label))
    layers = present["layer"].cast(pl.Int64).to_numpy()
    stream = random_stream(settings.seed, "permutation", *label)
    p_values = p_within_layers(values, scores, layers, counts, settings.permutations, stream)
    rows = []
    for index, threshold in enumerate(thresholds.tolist()):
        kept = scores >= threshold
        sizes = {"n_features": len(values), "n_missing": len(features) - len(values), "n_kept": int(kept.sum())}
        means = mean_columns("mean", values[kept], settings.confidence, ends="", scale=SCALES[measure])
        means |= mean_columns("removed_mean", values[~kept], settings.confidence, ends="removed_", scale=SCALES[measure])
        if kept.any():
            band = quantile_interval(removal[index], settings.confidence)
            means |= interval_columns("random_mean", float(removal[index].mean()), band, ends="random_")
        rows.append({"threshold": threshold} | sizes | means | {"p_within_layers": p_values[index]})
    return rows


def random_removal(
    values: Float[np.ndarray, " n"], counts: Int[np.ndarray, " threshold"], draws: int, stream: np.random.Generator
) -> Float[np.ndarray, "threshold draw"]:
    """Means over as many features as each threshold keeps, kept at random; NaN where it keeps none. A draw's sets are nested."""
    shuffled = stream.permuted(np.tile(values, (draws, 1)), axis=1)
    return _leading_sums(shuffled, counts).T / np.where(counts > 0, counts, np.nan)[:, None]


def p_within_layers(
    values: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    layers: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, " threshold"],
    permutations: int,
    stream: np.random.Generator,
) -> list[float | None]:
    """Two-sided p of the kept features' mean when values are permuted inside layers: the share of permutations, the observed one among
    them, whose sum over the kept is as far from its expectation, as many of each layer at random.

    `counts` is how many features each threshold keeps, those of highest score. None where nothing is kept or nothing removed.
    """
    by_layer = np.argsort(layers, kind="stable")
    values, scores, layers = values[by_layer], scores[by_layer], layers[by_layer]
    order = np.argsort(-scores, kind="stable")
    _, group, sizes = np.unique(layers, return_inverse=True, return_counts=True)
    expected = _leading_sums((np.bincount(group, values) / sizes)[group][order][None], counts)[0]
    observed = np.abs(_leading_sums(values[order][None], counts)[0] - expected)
    # The same sum in another order may differ in its last bits; it counts as as far.
    reached = observed - 1e-9 * (1 + observed)
    as_far = np.zeros(len(counts), dtype=np.int64)
    for done in range(0, permutations, _PERMUTATION_BLOCK):
        block = np.tile(values, (min(_PERMUTATION_BLOCK, permutations - done), 1))
        for layer in np.unique(layers):
            members = slice(*np.searchsorted(layers, [layer, layer + 1]))
            block[:, members] = stream.permuted(block[:, members], axis=1)
        as_far += (np.abs(_leading_sums(block[:, order], counts) - expected) >= reached).sum(axis=0)
    tested = (counts > 0) & (counts < len(values))
    return [(1 + int(hits)) / (1 + permutations) if test else None for hits, test in zip(as_far, tested, strict=True)]


def _leading_sums(rows: Float[np.ndarray, "row n"], counts: Int[np.ndarray, " threshold"]) -> Float[np.ndarray, "row threshold"]:
    """Sums of each row's first `count` values."""
    sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    return sums[:, counts]


def lens_frequencies(unsteered: pl.DataFrame, features: pl.DataFrame) -> pl.DataFrame:
    """The share of the tokens of unsteered texts (`token_ids`, a list a text) that are among a feature's top logit-lens tokens: layer,
    feature, frequency; null where there is no text."""
    counts = unsteered.select(id="token_ids").explode("id").drop_nulls().cast(pl.UInt32).group_by("id").agg(n=pl.len())
    tokens = features.select("layer", "feature", id="top_logit_lens_token_ids").explode("id")
    among = tokens.join(counts, on="id", how="left").group_by("layer", "feature").agg(frequency=pl.col("n").fill_null(0).sum())
    return among.with_columns(pl.col("frequency") / (counts["n"].sum() or None))


def filter_variants(
    steering: pl.DataFrame, features: pl.DataFrame, frequencies: pl.DataFrame, choice: BestFactorSettings, settings: SelectionSettings
) -> pl.DataFrame:
    """STEERING, FEATURES and `lens_frequencies` -> FILTER_VARIANTS."""
    rows = list(_variants(steering, features, frequencies, choice, settings))
    return pl.DataFrame(rows, schema=FILTER_VARIANTS.schema)


def _variants(
    steering: pl.DataFrame, features: pl.DataFrame, frequencies: pl.DataFrame, choice: BestFactorSettings, settings: SelectionSettings
) -> Iterator[dict[str, Any]]:
    registered = (choice.factor_choice, choice.perplexity, choice.rule)
    alike = features.select("layer", "feature", "density").join(frequencies, on=["layer", "feature"], how="left")
    for factor_choice, perplexity in product(FACTOR_CHOICES, PERPLEXITIES):
        of_choice = choice.model_copy(update={"factor_choice": factor_choice, "perplexity": perplexity})
        results = outcomes(best_factors(steering, of_choice), features).join(alike, on=["layer", "feature"], how="left")
        for rule, success, layers in product(RULES, SUCCESSES, LAYER_SETS):
            first_layer = 0 if layers == "all" else settings.late_layers_from
            members = results.filter(pl.col("layer") >= first_layer, rule=rule).drop_nulls(success)
            label = {"factor_choice": factor_choice, "perplexity": perplexity, "rule": rule, "success": success, "layers": layers}
            is_registered = (factor_choice, perplexity, rule) == registered and success != "gen_success_20"
            yield label | {"is_registered": is_registered} | _gain(members, success, settings, tuple(label.values()))


def _gain(members: pl.DataFrame, success: str, settings: SelectionSettings, label: tuple[str, ...]) -> dict[str, Any]:
    """The kept features' mean over that of all, and over that of as many features of the same strata."""
    members = members.sort("layer", "frequency", "feature")
    values, scores = members[success].to_numpy(), members["output_score"].to_numpy()
    is_kept = scores >= settings.headline_threshold
    numbers: dict[str, Any] = {"n_features": len(values), "n_kept": int(is_kept.sum()), "mean": members[success].mean()}
    numbers["kept_mean"] = members.filter(is_kept)[success].mean()
    for control, column in CONTROLS.items():
        groups = members.select(_strata(column)).to_series().to_numpy()
        gain = ratio_interval(values, is_kept, groups, settings.confidence)
        if control == "within_layers":
            numbers |= interval_columns("ratio", gain.ratio.value, gain.ratio.interval)
        is_unknown = column is not None and members[column].null_count() > 0
        if is_unknown or not set(groups[is_kept]) & set(groups[~is_kept]):  # or no kept feature has another to be compared with
            numbers |= interval_columns(control, None, None) | {f"p_{control}": None}
            continue
        stream = random_stream(settings.seed, "variants", control, *label)
        (p_value,) = p_within_layers(values, scores, groups, is_kept.sum(keepdims=True), settings.permutations, stream)
        numbers |= interval_columns(control, gain.within.value, gain.within.interval) | {f"p_{control}": p_value}
    return numbers


def _strata(column: str | None) -> pl.Expr:
    """The number of each feature's layer, or of its layer and bin by a column."""
    layer = pl.col("layer").cast(pl.Int64)
    if column is None:
        return layer
    bins = (pl.col(column).rank("ordinal").over("layer") - 1) * BINS // pl.len().over("layer")
    return layer * BINS + bins.fill_null(0)


def factor_bins(steering: pl.DataFrame, features: pl.DataFrame, edges: tuple[float, ...], settings: SelectionSettings) -> pl.DataFrame:
    """STEERING and FEATURES -> FACTOR_BINS: means over the features of an output-score bin, all prefixes, at every factor.

    `edges` ascend from 0 to 1; a bin holds its lower edge, the last one also 1. Perplexity is the geometric mean. Bins without a
    feature have no rows.
    """
    scores = features.select("layer", "feature", "output_score")
    frame = both_halves(steering).join(scores, on=["layer", "feature"], how="inner").sort("layer", "feature")
    rows = []
    for low, high in pairwise(edges):
        below = pl.col("output_score") <= high if high == edges[-1] else pl.col("output_score") < high
        members = frame.filter((pl.col("output_score") >= low) & below).drop_nulls("gen_success_20")
        for factor in sorted(members["factor"].unique(), key=float):
            key = {"output_score_low": low, "output_score_high": high, "factor": factor}
            rows.append(key | _bin(members.filter(factor=factor), settings))
    return pl.DataFrame(rows, schema=FACTOR_BINS.schema)


def _bin(members: pl.DataFrame, settings: SelectionSettings) -> dict[str, Any]:
    success = members["gen_success_20"].to_numpy()
    losses = members["log_perplexity"].drop_nulls().to_numpy()
    loss = mean_columns("perplexity", losses, settings.confidence)
    perplexity = {name: None if value is None else float(np.exp(value)) for name, value in loss.items()}
    return {"n_features": members.height, **mean_columns("gen_success_20", success, settings.confidence, scale=SUCCESS), **perplexity}
