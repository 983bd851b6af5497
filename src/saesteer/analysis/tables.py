"""The tables that are made of the rows of a sweep, and of one another."""

import polars as pl

from saesteer.core.tables import FEATURE, FEATURE_KEYS, LAYER, OF_FEATURE, Column, Table
from saesteer.core.texts import OF_TEXT

_INPUT_SCORE = {"input_score": Column(pl.Float64, "P1's S_in, in [0, 1]", "as in the table features")}
_OUTPUT_SCORE = {"output_score": Column(pl.Float64, "P1's S_out, in [0, 1]")}
_CONCEPT = {"concept": Column(pl.String, "what the feature stands for, as in the table features", "it has no clear concept")}


def interval_ends(name: str, over: str, null_when: str) -> dict[str, Column]:
    """The columns of the ends of an interval; `name` is that of the quantity, empty where a table has one interval."""
    low, high = (f"{name}_{end}" if name else end for end in ("low", "high"))
    return {
        low: Column(pl.Float64, f"lower end of its interval over {over}", null_when),
        high: Column(pl.Float64, "upper end", null_when),
    }


STEERING = Table(
    "steering",
    ("layer", "feature", "factor", "half"),
    {
        "layer": LAYER,
        "feature": FEATURE,
        "factor": OF_TEXT["factor"],
        "half": Column(pl.UInt8, "half of the prefixes, 0 or 1: every other prefix of the list"),
        "n": Column(pl.UInt32, "texts"),
        "gen_success_1": Column(pl.Float64, "mean GenSuccess@1", "there are no texts"),
        "gen_success_5": Column(pl.Float64, "mean GenSuccess@5", "there are no texts"),
        "gen_success_20": Column(pl.Float64, "mean GenSuccess@20", "there are no texts"),
        "log_perplexity": Column(pl.Float64, "mean over texts of mean_nll (nats per token)", "every continuation is empty"),
        "n_perplexity": Column(pl.UInt32, "texts with a perplexity"),
        "mean_perplexity": Column(pl.Float64, "arithmetic mean over texts of exp(mean_nll)", "every continuation is empty"),
        "whole_text_perplexity": Column(
            pl.Float64, "arithmetic mean over texts of exp(whole_text_nll)", "every text is one token with its prefix"
        ),
        "concept_rating": Column(pl.Float64, "mean concept rating", "the feature has no clear concept"),
        "n_concept": Column(pl.UInt32, "texts with a concept rating"),
        "concept_outside": Column(
            pl.Float64,
            (
                "mean concept rating by the words that are neither top logit-lens tokens of the feature nor its "
                "concept's name, of texts that have such"
            ),
            "a language model rates, or no text has such words",
        ),
        "n_outside": Column(pl.UInt32, "texts with a concept rating by such words"),
        "fluency_rating": Column(pl.Float64, "mean fluency rating", "nothing could be rated"),
        "n_fluency": Column(pl.UInt32, "texts with a fluency rating"),
        "judge_score": Column(
            pl.Float64, "mean of the texts' harmonic means, 0 for one that repeats another prompt's", "nothing could be rated"
        ),
        "n_judged": Column(pl.UInt32, "texts with a judge score"),
    },
)

BEST_FACTORS = Table(
    "best_factors",
    ("layer", "feature", "rule", "reported_on"),
    {
        "layer": LAYER,
        "feature": FEATURE,
        "rule": Column(pl.String, "p1 or capped"),
        "reported_on": Column(pl.String, "half of the prefixes reported on: 0, 1 (chosen on the other), or all (chosen on the same)"),
        "factor": Column(pl.String, "the chosen factor", "no factor can be chosen (no success, or the rule drops all): steering failed"),
        "at_grid_end": Column(pl.Boolean, "the smallest or largest positive factor was chosen", "factor is null"),
        "gen_success_20": Column(pl.Float64, "mean GenSuccess@20 on the half reported on; 0 when factor is null", "there are no texts"),
        "net_gen_success_20": Column(
            pl.Float64,
            "gen_success_20 minus that of the same prompts' unsteered texts (factor 0)",
            "there are no texts, or none at factor 0",
        ),
        "net_concept_outside": Column(
            pl.Float64,
            (
                "mean concept_outside on the half reported on, 0 when factor is null, minus that of the same prompts' "
                "unsteered texts (factor 0)"
            ),
            "no clear concept, or a language model rates, or no text has such words",
        ),
        "log_perplexity": Column(pl.Float64, "of the texts reported on", "factor is null or every text is empty"),
        "concept_rating": Column(pl.Float64, "mean on the half reported on", "factor is null or no clear concept"),
        "fluency_rating": Column(pl.Float64, "mean on the half reported on", "factor is null"),
        "judge_score": Column(
            pl.Float64, "mean on the half reported on; 0 when factor is null and the feature has a concept", "no clear concept"
        ),
    },
)

CHOSEN_STRENGTHS = Table(
    "chosen_strengths",
    ("layer", "feature", "rule", "reported_on"),
    {
        "layer": LAYER,
        "feature": FEATURE,
        **BEST_FACTORS.some("rule", "reported_on", "factor"),
        "multiple": Column(pl.String, "the factor as a multiple of the feature's pilot factor", "factor is null"),
        "norm_share": Column(
            pl.Float64,
            "norm of what is added at that factor over the norm of what it is added to, mean over tokens of ordinary texts",
            "factor is null",
        ),
    },
)

OUTCOMES = Table(
    "outcomes",
    ("layer", "feature", "rule"),
    {
        "layer": LAYER,
        "feature": FEATURE,
        **BEST_FACTORS.some("rule"),
        **_INPUT_SCORE,
        **_OUTPUT_SCORE,
        **_CONCEPT,
        "factors": Column(pl.List(pl.String), "chosen factor of each direction of the split; null where steering failed"),
        "n_at_grid_end": Column(pl.UInt8, "directions in which the choice is at a grid's end"),
        "gen_success_20": Column(pl.Float64, "mean of the directions' GenSuccess@20, on the prefixes that report", "there are no texts"),
        "net_gen_success_20": Column(pl.Float64, "mean of the directions'", "there are no texts, or none at factor 0"),
        "net_concept_outside": Column(pl.Float64, "mean of the directions'", "as best_factors.net_concept_outside"),
        "log_perplexity": Column(pl.Float64, "mean of the directions'", "steering failed in every direction"),
        "concept_rating": Column(pl.Float64, "mean of the directions'", "no clear concept, or steering failed in every direction"),
        "fluency_rating": Column(pl.Float64, "mean of the directions'", "steering failed in every direction"),
        "judge_score": Column(pl.Float64, "mean of the directions'", "no clear concept"),
    },
)

SELECTION = Table(
    "selection",
    ("rule", "measure", "layers", "threshold"),
    {
        **BEST_FACTORS.some("rule"),
        "measure": Column(pl.String, "gen_success_20, net_gen_success_20, judge_score, concept_rating or fluency_rating"),
        "layers": Column(pl.String, "all or late"),
        "threshold": Column(pl.Float64, "features with output score >= this are kept"),
        "n_features": Column(pl.UInt32, "features with the measure, before filtering"),
        "n_missing": Column(pl.UInt32, "features without it, left out"),
        "n_kept": Column(pl.UInt32, "features kept"),
        "mean": Column(pl.Float64, "mean of the measure over kept features", "nothing is kept"),
        **interval_ends("", "features", "fewer than 2 are kept"),
        "removed_mean": Column(pl.Float64, "mean over removed features", "nothing is removed"),
        **interval_ends("removed", "features", "fewer than 2 are removed"),
        "random_mean": Column(pl.Float64, "mean when as many are removed at random", "nothing is kept"),
        "random_low": Column(pl.Float64, "lower end of the random band", "nothing is kept"),
        "random_high": Column(pl.Float64, "upper end of the random band", "nothing is kept"),
        "p_within_layers": Column(pl.Float64, "two-sided p of the permutation test within layers", "nothing is kept or nothing removed"),
    },
)


def _matched(name: str, alike: str, unknown: str) -> dict[str, Column]:
    """The columns of a gain over features that are alike in another respect than their layer."""
    too_few = "fewer than 2 are kept, or the ratio is not above 0"
    return {
        name: Column(
            pl.Float64,
            f"kept_mean over the mean of as many features of each layer and quarter {alike}",
            f"nothing is kept, that mean is not above 0, or {unknown}",
        ),
        **interval_ends(name, "features", too_few),
        f"p_{name}": Column(pl.Float64, "two-sided p of the permutation test within these", f"nothing is kept or removed, or {unknown}"),
    }


FILTER_VARIANTS = Table(
    "filter_variants",
    ("factor_choice", "perplexity", "rule", "success", "layers"),
    {
        "factor_choice": Column(
            pl.String, "held_out: chosen on the other half of the prefixes; same_texts: on those that are reported on (P1)"
        ),
        "perplexity": Column(pl.String, "the perplexity that factors are chosen by, as best_factor.perplexity"),
        **BEST_FACTORS.some("rule"),
        "success": Column(pl.String, "gen_success_20, net_gen_success_20 or net_concept_outside"),
        **SELECTION.some("layers"),
        "is_registered": Column(pl.Boolean, "the experiment's own settings, and net success"),
        "n_features": Column(pl.UInt32, "features"),
        "n_kept": Column(pl.UInt32, "of them, those of an output score from the headline's threshold on"),
        "mean": Column(pl.Float64, "mean success of all", "there are no features"),
        "kept_mean": Column(pl.Float64, "mean success of the kept", "nothing is kept"),
        "ratio": Column(pl.Float64, "kept_mean over mean", "nothing is kept, or the mean is not above 0"),
        **interval_ends("ratio", "features", "fewer than 2 are kept, or the ratio is not above 0"),
        "within_layers": Column(
            pl.Float64, "kept_mean over the mean of as many features of each layer", "nothing is kept, or that mean is not above 0"
        ),
        **interval_ends("within_layers", "features", "fewer than 2 are kept, or the ratio is not above 0"),
        **SELECTION.some("p_within_layers"),
        **_matched("matched", "of the frequency of top logit-lens tokens in unsteered texts", "there are no such texts"),
        **_matched("matched_density", "of density", "a feature's density is unknown"),
    },
)

FACTOR_BINS = Table(
    "factor_bins",
    ("output_score_low", "factor"),
    {
        "output_score_low": Column(pl.Float64, "lower edge of the output-score bin (included)"),
        "output_score_high": Column(pl.Float64, "upper edge (excluded, but 1 is included)"),
        "factor": OF_TEXT["factor"],
        "n_features": Column(pl.UInt32, "features in the bin"),
        "gen_success_20": Column(pl.Float64, "mean over features of GenSuccess@20, all prefixes"),
        **interval_ends("gen_success_20", "features", "fewer than 2 features"),
        "perplexity": Column(pl.Float64, "geometric mean over features and texts", "every text is empty"),
        **interval_ends("perplexity", "features", "fewer than 30 features"),
    },
)

FEATURE_PMI = Table(
    "feature_pmi",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        **_OUTPUT_SCORE,
        "pmi": Column(
            pl.Float64, "mean PMI in nats of generated top tokens with top logit-lens tokens, co-occurring texts", "no pair co-occurs"
        ),
        "n_pairs": Column(pl.UInt32, "pairs of different tokens that co-occur"),
        "n_absent": Column(pl.UInt32, "pairs that never do, left out"),
    },
)

PMI = Table(
    "pmi",
    ("layers", "threshold"),
    {
        "layers": Column(pl.String, "all or late"),
        "threshold": Column(pl.Float64, "features with output score >= this are kept"),
        "n_kept": Column(pl.UInt32, "features kept that have a PMI"),
        "n_missing": Column(pl.UInt32, "features kept without one"),
        "mean": Column(pl.Float64, "mean PMI in nats", "nothing is kept"),
        **interval_ends("", "features", "fewer than 30"),
    },
)

EXAMPLES = Table(
    "examples",
    FEATURE_KEYS,
    {
        **OF_FEATURE,
        "page": Column(pl.String, "address of the feature's page on Neuronpedia", "none is known"),
        **_INPUT_SCORE,
        **_OUTPUT_SCORE,
        **_CONCEPT,
        "top_logit_lens_tokens": Column(pl.List(pl.String), "top logit-lens tokens, most promoted first"),
        "top_context": Column(
            pl.String,
            "the largest maximum of the max-activating examples, in [brackets], and the tokens around it",
            "no max-activating examples",
        ),
        "factor": Column(pl.String, "factor of the text shown", "steering failed"),
        "prefix": Column(pl.String, "prefix of the text shown"),
        "unsteered": Column(pl.String, "continuation at factor 0"),
        "steered": Column(pl.String, "continuation at the chosen factor", "steering failed"),
    },
)
