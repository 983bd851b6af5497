"""What filtering by output score gains, in every variant of the analysis: one number alone may owe more to how it was computed.

Variants: the factor chosen on other prompts than are reported on, or on the same (P1's procedure); by each perplexity; by each rule for
the factor. Of each GenSuccess@20 as P1 has it and net of the same prompts' unsteered texts, and the net concept rating without lens
tokens; over all layers and the late ones, with three controls: features of the same layer, and of the same layer with a like frequency of
their top logit-lens tokens in unsteered texts or with a like density.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import polars as pl

from saesteer.analysis.best_factor import PERPLEXITIES, RULES, best_factors, outcomes
from saesteer.analysis.selection import LAYER_SETS, p_within_layers
from saesteer.analysis.tables import FILTER_VARIANTS
from saesteer.core.uncertainty import interval_columns, random_stream, ratio_interval
from saesteer.settings import BestFactorSettings, SelectionSettings

FACTOR_CHOICES = ("held_out", "same_texts")
SUCCESSES = ("gen_success_20", "net_gen_success_20", "net_concept_outside")
"""The last counts no top logit-lens tokens, which the output score ranks: it is the concept rating of a text without them."""
CONTROLS = {"within_layers": None, "matched": "frequency", "matched_density": "density"}
"""By what the features are alike that the kept ones are compared with, besides their layer."""
BINS = 4
"""Of a layer's features, as many in each, by frequency or by density."""


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
