"""Summary tables: computed afresh from rows, read by figures and by people."""

import polars as pl

from saesteer.core.tables.schema import Column, Table, interval
from saesteer.core.tables.steps import CONCEPTS, FACTOR, INPUT_SCORE, LOGIT_LENS, OUTPUT_SCORE, PER_FEATURE, RECORDS, reason_for

FEATURES = Table(
    "features",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        **RECORDS.columns_named("density", "max_activation", "n_records", "explanations"),
        "explanation": Column(pl.String, "the first of them: the one that is shown", "the source has none"),
        **CONCEPTS.columns_named("concept", "concept_share"),
        "lens_tokens": LOGIT_LENS.columns["tokens"],
        "lens_token_ids": LOGIT_LENS.columns["token_ids"],
        **INPUT_SCORE.columns_named("input_score"),
        "input_score_reason": reason_for("input_score"),
        **OUTPUT_SCORE.columns_named("output_score", "min_rank", "max_prob", "delta_token_confidence", "a_max"),
        "decoder_norm": Column(pl.Float64, "norm of the decoder row, to three digits", "the SAE's manifest does not say"),
        "page": Column(pl.String, "address of the feature's page on Neuronpedia", "neither records.source nor sae-lens names a source"),
    },
)
_NO_TEXTS = "there are no texts: logits are not finite"
STEERING = Table(
    "steering",
    ("layer", "feature", "factor", "half"),
    {
        **PER_FEATURE,
        "factor": FACTOR,
        "half": Column(pl.UInt8, "half of the prefixes, 0 or 1: every other prefix of the list"),
        "n": Column(pl.UInt32, "texts"),
        "gen_success_1": Column(pl.Float64, "mean GenSuccess@1", _NO_TEXTS),
        "gen_success_5": Column(pl.Float64, "mean GenSuccess@5", _NO_TEXTS),
        "gen_success_20": Column(pl.Float64, "mean GenSuccess@20", _NO_TEXTS),
        "log_perplexity": Column(pl.Float64, "mean over texts of mean_nll (nats per token)", "every continuation is empty"),
        "n_perplexity": Column(pl.UInt32, "texts with a perplexity"),
        "mean_perplexity": Column(pl.Float64, "arithmetic mean over texts of exp(mean_nll)", "every continuation is empty"),
        "whole_text_perplexity": Column(
            pl.Float64, "arithmetic mean over texts of exp(whole_text_nll)", "every text is one token with its prefix"
        ),
        "concept_rating": Column(pl.Float64, "mean concept rating", "the feature has no clear concept"),
        "fluency_rating": Column(pl.Float64, "mean fluency rating", "nothing could be rated"),
        "judge_score": Column(pl.Float64, "mean of the texts' harmonic means", "nothing could be rated"),
        "n_judged": Column(pl.UInt32, "texts with a judge score"),
    },
)
BEST_FACTORS = Table(
    "best_factors",
    ("layer", "feature", "rule", "reported_on"),
    {
        **PER_FEATURE,
        "rule": Column(pl.String, "p1 or capped"),
        "reported_on": Column(pl.String, "half of the prefixes reported on: 0, 1 (chosen on the other), or all (chosen on the same)"),
        "factor": Column(pl.String, "the chosen factor", "no factor can be chosen (no success, or the rule drops all): steering failed"),
        "at_grid_end": Column(pl.Boolean, "the smallest or largest positive factor was chosen", "factor is null"),
        "gen_success_20": Column(pl.Float64, "mean GenSuccess@20 on the half reported on; 0 when factor is null", _NO_TEXTS),
        "log_perplexity": Column(pl.Float64, "of the texts reported on", "factor is null or every text is empty"),
        "concept_rating": Column(pl.Float64, "mean on the half reported on", "factor is null or no clear concept"),
        "fluency_rating": Column(pl.Float64, "mean on the half reported on", "factor is null"),
        "judge_score": Column(
            pl.Float64, "mean on the half reported on; 0 when factor is null and the feature has a concept", "no clear concept"
        ),
    },
)
OUTCOMES = Table(
    "outcomes",
    ("layer", "feature", "rule"),
    {
        **PER_FEATURE,
        **BEST_FACTORS.columns_named("rule"),
        **INPUT_SCORE.columns_named("input_score"),
        **OUTPUT_SCORE.columns_named("output_score"),
        **CONCEPTS.columns_named("concept"),
        "factors": Column(pl.List(pl.String), "chosen factor of each direction of the split; null where steering failed"),
        "n_at_grid_end": Column(pl.UInt8, "directions in which the choice is at a grid's end"),
        "gen_success_20": Column(pl.Float64, "mean of the directions' held-out GenSuccess@20", _NO_TEXTS),
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
        **BEST_FACTORS.columns_named("rule"),
        "measure": Column(pl.String, "gen_success_20, judge_score, concept_rating or fluency_rating (held-out)"),
        "layers": Column(pl.String, "all or late"),
        "threshold": Column(pl.Float64, "features with output score >= this are kept"),
        "n_features": Column(pl.UInt32, "features with the measure, before filtering"),
        "n_missing": Column(pl.UInt32, "features without it, left out"),
        "n_kept": Column(pl.UInt32, "features kept"),
        **interval("mean", "mean of the measure over kept features", "features", "nothing is kept", "fewer than 2 are kept", ends=""),
        **interval(
            "removed_mean", "mean over removed features", "features", "nothing is removed", "fewer than 2 are removed", ends="removed_"
        ),
        "random_mean": Column(pl.Float64, "mean when as many are removed at random", "nothing is kept"),
        "random_low": Column(pl.Float64, "lower end of the random band", "nothing is kept"),
        "random_high": Column(pl.Float64, "upper end of the random band", "nothing is kept"),
        "p_within_layers": Column(pl.Float64, "one-sided p of the permutation test within layers", "nothing is kept or nothing removed"),
    },
)
FACTOR_BINS = Table(
    "factor_bins",
    ("output_score_low", "factor"),
    {
        "output_score_low": Column(pl.Float64, "lower edge of the output-score bin (included)"),
        "output_score_high": Column(pl.Float64, "upper edge (excluded, but 1 is included)"),
        "factor": FACTOR,
        "n_features": Column(pl.UInt32, "features in the bin"),
        **interval("gen_success_20", "mean over features of GenSuccess@20, all prefixes", "features", None, "fewer than 2 features"),
        **interval("perplexity", "geometric mean over features and texts", "features", "every text is empty", "fewer than 2 features"),
    },
)
FEATURE_PMI = Table(
    "feature_pmi",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        **OUTPUT_SCORE.columns_named("output_score"),
        "pmi": Column(pl.Float64, "mean PMI in nats of generated top tokens with lens tokens, co-occurring texts", "no pair co-occurs"),
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
        **interval("mean", "mean PMI in nats", "features", "nothing is kept", "fewer than 2", ends=""),
    },
)
EXAMPLES = Table(
    "examples",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        **FEATURES.columns_named("page"),
        **INPUT_SCORE.columns_named("input_score"),
        **OUTPUT_SCORE.columns_named("output_score"),
        **CONCEPTS.columns_named("concept"),
        "lens_tokens": LOGIT_LENS.columns["tokens"],
        "top_context": Column(pl.String, "the largest maximum of the records, in [brackets], and the tokens around it", "no records"),
        "factor": Column(pl.String, "factor of the text shown", "steering failed"),
        "prefix": Column(pl.String, "prefix of the text shown"),
        "unsteered": Column(pl.String, "continuation at factor 0"),
        "steered": Column(pl.String, "continuation at the chosen factor", "steering failed"),
    },
)
