"""Tables of what the papers leave open."""

import polars as pl

from saesteer.core.tables import EFFECTS, FITS, METHOD_SUMMARIES, OUTPUT_SCORE, Column, Table
from saesteer.core.tables.schema import interval

PER_FEATURE = OUTPUT_SCORE.columns_named("layer", "feature")


def _rank_correlation(name: str, meaning: str) -> dict[str, Column]:
    """A rank correlation over features and the ends of its interval."""
    return interval(name, meaning, "features", "one of the two does not vary", f"as {name}, or fewer than 3 features")


_NO_CONCEPT = "no clear concept, or no text of it"
QUANTITIES = Table(
    "quantities",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        "lens_confidence": Column(pl.Float64, "log probability (nats) of the first lens token in head(final_norm(decoder direction))"),
        "head_cosine": Column(pl.Float64, "largest cosine of the decoder row with a row of the head"),
        "lens_on_concept": Column(
            pl.Float64, "mean over its lens tokens of the share of a token's uses that are on the concept", _NO_CONCEPT
        ),
        "concept_score": Column(pl.Float64, "output score with the concept's 20 most frequent tokens for the lens tokens", _NO_CONCEPT),
        "label_f1": Column(pl.Float64, "F1 of firing anywhere in a text as a test of its topic being the concept", _NO_CONCEPT),
        "information": Column(pl.Float64, "nats that firing in a text tells about its topic being the concept", _NO_CONCEPT),
        "gradient": Column(
            pl.Float64, "first-order rise of the loss when it is removed, texts of the concept less others, nats", _NO_CONCEPT
        ),
        "ablation": Column(pl.Float64, "measured rise of the same, nats", _NO_CONCEPT),
        "mean_cosine": Column(pl.Float64, "cosine with the mean of the concept's texts less the mean of others", _NO_CONCEPT),
    },
)
OUTPUT_SCORE_SETTINGS = Table(
    "output_score_settings",
    ("layer", "feature", "prompt", "factor"),
    {
        **PER_FEATURE,
        "prompt": Column(pl.String, "neutral prompt"),
        "factor": Column(pl.String, "steering factor, a canonical decimal, in multiples of a_max"),
        **OUTPUT_SCORE.columns_named("output_score"),
    },
)
_FEW_CONCEPTS = "fewer than 2 concepts"
CHOICE_RULES = Table(
    "choice_rules",
    ("factor_rule", "layer", "rule"),
    {
        "factor_rule": Column(pl.String, "what chose each feature's factor: judge, capped, p1, common or scaled (choice_rules)"),
        "layer": PER_FEATURE["layer"],
        "rule": Column(
            pl.String,
            "column of FEATURES or QUANTITIES whose largest value picks; random: any; best: brute force on the other half",
        ),
        "n_concepts": Column(pl.UInt32, "concepts with at least two labelled features that were judged"),
        "n": Column(pl.UInt32, "of them, those for which the rule picks one"),
        **interval(
            "score", "mean over them of the picked feature's held-out judge score, 0 to 2", "concepts", "it picks none", _FEW_CONCEPTS
        ),
        **interval(
            "above_random",
            "mean over them of that score less the mean over the concept's candidates",
            "concepts",
            "it picks none",
            _FEW_CONCEPTS,
        ),
        "share_of_best": Column(pl.Float64, "score over the best's, over the same concepts", "factors are not chosen by the judge"),
    },
)
_ONE_KIND = "all features steer well, or none"
FEATURE_RANKINGS = Table(
    "feature_rankings",
    ("layer", "rule"),
    {
        "layer": PER_FEATURE["layer"],
        "rule": Column(pl.String, "column of FEATURES or QUANTITIES that ranks a layer's judged features"),
        "n": Column(pl.UInt32, "features that have it"),
        "n_steers": Column(pl.UInt32, "of them, those with a held-out judge score of at least 1"),
        **interval("area", "area under the ROC curve as a test of steering well", "features", _ONE_KIND),
        "precision_10": Column(pl.Float64, "share of the ten first that steer well", "fewer than 10 features"),
        "precision_50": Column(pl.Float64, "share of the fifty first", "fewer than 50 features"),
    },
)
QUANTITY_CORRELATIONS = Table(
    "quantity_correlations",
    ("layer", "quantity", "outcome"),
    {
        "layer": PER_FEATURE["layer"],
        "quantity": Column(pl.String, "column of FEATURES or QUANTITIES"),
        "outcome": Column(
            pl.String,
            "judge_score (factor by the judge), best_factor (chosen so), gen_success_20, concept_rating or fluency_rating of OUTCOMES,"
            " lens_on_concept or mean_cosine of QUANTITIES",
        ),
        "n": Column(pl.UInt32, "features that have both"),
        **_rank_correlation("rho", "rank correlation"),
    },
)
_NONE_KEPT = "nothing is kept"
HEADLINE_SAMPLES = Table(
    "headline_samples",
    ("measure", "layers"),
    {
        "measure": Column(pl.String, "gen_success_20 or judge_score (held out)"),
        "layers": Column(pl.String, "all, or one layer"),
        "n": Column(pl.UInt32, "features with the measure"),
        "n_kept": Column(pl.UInt32, "of them, those that reach the headline's threshold"),
        "mean": Column(pl.Float64, "mean over all", "there is none"),
        "kept_mean": Column(pl.Float64, "mean over those kept", _NONE_KEPT),
        **interval(
            "ratio", "the second over the first", "features", "nothing is kept, or the mean is 0", "as ratio, or fewer than 2 features"
        ),
        **interval("difference", "kept less removed", "features", "nothing is kept or nothing removed", "fewer than 2 are kept or removed"),
        "n_sampled": Column(pl.UInt32, "features of a layer in a sample"),
        "sampled_ratio": Column(pl.Float64, "median over random samples of the ratio", "no sample has one"),
        "sampled_ratio_low": Column(pl.Float64, "lower end of what the samples have", "no sample has one"),
        "sampled_ratio_high": Column(pl.Float64, "upper end", "no sample has one"),
    },
)
THRESHOLD_CURVES = Table(
    "threshold_curves",
    ("measure", "layer", "threshold"),
    {
        **HEADLINE_SAMPLES.columns_named("measure"),
        "layer": PER_FEATURE["layer"],
        "threshold": Column(pl.Float64, "features with output score >= this are kept"),
        **HEADLINE_SAMPLES.columns_named("n"),
        "n_kept": Column(pl.UInt32, "features kept"),
        **interval("gain", "mean over those kept less the mean over all", "features", _NONE_KEPT),
    },
)
THRESHOLD_TRANSFER = Table(
    "threshold_transfer",
    ("measure", "chosen_on", "tried_on"),
    {
        **HEADLINE_SAMPLES.columns_named("measure"),
        "chosen_on": Column(pl.String, "half: a random half of the features, many times; or a layer"),
        "tried_on": Column(pl.String, "rest: the other half; or another layer"),
        "threshold": Column(pl.Float64, "of largest gain where it was chosen; of halves the median"),
        "threshold_low": Column(pl.Float64, "lower end over halvings; of layers the same"),
        "threshold_high": Column(pl.Float64, "upper end"),
        "gain_chosen": Column(pl.Float64, "gain where it was chosen; of halves the mean"),
        **interval("gain", "gain where it was tried", "features; of halves the lower end over halvings", _NONE_KEPT),
    },
)
GRID_ENDS = Table(
    "grid_ends",
    ("layer", "factor_rule", "grid"),
    {
        **CHOICE_RULES.columns_named("layer"),
        "factor_rule": Column(pl.String, "what chose each feature's factor on the other half: judge, capped or p1"),
        "grid": Column(pl.String, "which of the sweep's positive factors could be chosen"),
        "n": Column(pl.UInt32, "choices: two for each judged feature, less those where steering failed"),
        "at_smallest": Column(pl.Float64, "share of them that are the grid's smallest factor", "there is no choice"),
        "at_largest": Column(pl.Float64, "share of them that are the grid's largest", "there is no choice"),
        "moved": Column(pl.Float64, "share of choices that differ from those with all factors", "there is no choice"),
        "score": Column(pl.Float64, "held-out judge score, mean over features", "no feature was judged"),
        **interval("change", "that less the score with all factors", "features", "no feature was judged", "fewer than 2 features"),
    },
)
SETTING_AGREEMENT = Table(
    "setting_agreement",
    ("layer", "prompt", "factor"),
    {
        "layer": PER_FEATURE["layer"],
        **OUTPUT_SCORE_SETTINGS.columns_named("prompt", "factor"),
        "is_own": Column(pl.Boolean, "the experiment's own setting, which the others are compared with"),
        "n": Column(pl.UInt32, "features"),
        **_rank_correlation("rho", "rank correlation of the two settings' output scores"),
        "n_kept": Column(pl.UInt32, "features that reach the headline's threshold"),
        "jaccard": Column(pl.Float64, "kept by both settings over kept by either", "neither keeps any"),
        "jaccard_first": Column(pl.Float64, "the same of as many first features as the own setting keeps", "it keeps none"),
        **_rank_correlation("rho_success", "rank correlation with held-out GenSuccess@20"),
        **_rank_correlation("rho_judge", "rank correlation with the held-out judge score"),
        **CHOICE_RULES.columns_named("score", "score_low", "score_high"),
    },
)
DATA_SIZES = Table(
    "data_sizes",
    ("layer", "rule", "n"),
    {
        **CHOICE_RULES.columns_named("layer"),
        "rule": Column(pl.String, "quantity that is computed from part of the data, and picks"),
        "n": Column(pl.UInt32, "records of a feature, or labelled texts of a concept and as many of others"),
        "n_features": Column(pl.UInt32, "features that have the quantity at this and at the largest number"),
        **_rank_correlation("rho", "rank correlation with the same quantity at the largest number"),
        "n_concepts": Column(pl.UInt32, "concepts for which it picks a feature"),
        "same_pick": Column(pl.Float64, "share of them whose pick is that of the largest number", "it picks none"),
        **CHOICE_RULES.columns_named("score", "score_low", "score_high"),
    },
)
PREDICTIONS = Table(
    "predictions",
    ("layer", "trained_on"),
    {
        **CHOICE_RULES.columns_named("layer"),
        "trained_on": Column(pl.String, "the other layers of the experiment, or another experiment"),
        "n": Column(pl.UInt32, "features of the layer that were judged"),
        "penalty": Column(pl.Float64, "of the ridge regression, chosen by cross-validation", "it was trained on another experiment"),
        **_rank_correlation("rho", "rank correlation of prediction and held-out judge score"),
        **CHOICE_RULES.columns_named("n_concepts", "score", "score_low", "score_high"),
        **interval(
            "above_activation",
            "that score less that of the largest record's pick, over concepts",
            "concepts",
            "it picks none",
            _FEW_CONCEPTS,
        ),
    },
)
PREDICTOR_WEIGHTS = Table(
    "predictor_weights",
    ("layer", "quantity"),
    {
        "layer": Column(pl.UInt16, "decoder layer, 0-based, which the predictor was not trained on"),
        "quantity": Column(pl.String, "column of FEATURES or QUANTITIES, as normal scores of its ranks in the layer"),
        "weight": Column(pl.Float64, "judge score for one standard deviation of the quantity, the others equal"),
    },
)
RECOMMENDATIONS = Table(
    "recommendations",
    ("concept",),
    {
        "concept": Column(pl.String, "a topic that features are labelled with"),
        "n_candidates": Column(pl.UInt32, "features that `saesteer recommend` would steer with, of all layers"),
        "verdict": Column(pl.String, "use, weak or none"),
        "layer": Column(pl.UInt16, "of the feature that it recommends", "no text could be rated"),
        "feature": Column(pl.UInt32, "the feature that it recommends", "no text could be rated"),
        "factor": Column(pl.String, "how hard to steer with it", "no text could be rated"),
        **interval("score", "held-out mean judge score of choosing so among the candidates", "prompts", "no text could be rated"),
        "best": Column(pl.Float64, "the same of choosing so among all features with the label", "no text could be rated"),
        "regret": Column(pl.Float64, "best less score", "no text could be rated"),
    },
)
APPROXIMATOR_SIZES = Table(
    "approximator_sizes",
    ("layer", "model", "n"),
    {
        "layer": PER_FEATURE["layer"],
        "model": Column(pl.String, "linear: ridge regression on the unit direction, as SAE-TS has it; kernel: on Gaussians of distances"),
        "n": Column(pl.UInt32, "vectors that it is fitted on"),
        "n_held_out": Column(pl.UInt32, "vectors that R2 is measured on"),
        **interval(
            "r2", "1 - squared error over squared distance from the fitted vectors' mean effect, all features together", "held-out vectors"
        ),
    },
)
EFFECT_MULTIPLES = Table(
    "effect_multiples",
    ("layer", "multiple"),
    {
        "layer": PER_FEATURE["layer"],
        "multiple": Column(pl.Float64, "of the scale at which the approximator's vectors were added"),
        "n": Column(pl.UInt32, "held-out vectors"),
        **interval("loss_rise", "by how much they raise the loss of unsteered texts, nats a token", "vectors"),
        **interval("size", "norm of the effect over its norm at multiple 1", "vectors"),
        **interval("cosine", "cosine of the effect with that at multiple 1", "vectors"),
        **interval("pattern", "cosine of the predicted and the measured effect, each less its mean over vectors", "vectors"),
        **interval("r2", "R2 of multiple * x M + b about the mean effect at this multiple; below 0 the mean predicts better", "vectors"),
    },
)
_LATER = {"read_layer": Column(pl.UInt16, "whose SAE read the texts: the steered layer itself or a later one of the experiment")}
EFFECT_LAYERS = Table(
    "effect_layers",
    ("layer", "model", "n", "read_layer"),
    {**APPROXIMATOR_SIZES.columns, **_LATER},
)
JUDGE_ERROR = Table(
    "judge_error",
    ("layer", "group"),
    {
        "layer": PER_FEATURE["layer"],
        "group": Column(pl.String, "rule of CHOICE_RULES whose picks these are; or all features, features kept or removed by P1's filter"),
        "units": Column(pl.String, "concepts or features"),
        "n": Column(pl.UInt32, "how many"),
        **interval("score", "mean of held-out judge scores, factors chosen by the judge", "units", "fewer than 2 units"),
        **interval(
            "corrected",
            "the same corrected for the judge's measured errors, which can leave 0 to 2",
            "units and over the texts on which the judge was measured",
            "fewer than 2 units",
        ),
    },
)
"""Without rows where the judge's folder does not say how texts made as 0, 1 and 2 were rated."""
PSEUDO_INVERSES = Table(
    "pseudo_inverses",
    ("layer", "target"),
    {
        "layer": PER_FEATURE["layer"],
        "target": Column(pl.Float64, "code of its feature that a vector (target e_j - b) pinv(M) aims at; SAE-TS has 1"),
        "n": Column(pl.UInt32, "features with a concept that a vector changes"),
        "condition": Column(pl.Float64, "largest over smallest singular value of M that is not 0"),
        **interval("column_cosine", "cosine of the vector with the feature's column of M", "features"),
        **interval("shared_cosine", "cosine with -b pinv(M), which the vectors of all features share", "features"),
    },
)
EFFECTS_AT_MULTIPLES = Table(
    "effects_at_multiples",
    ("layer", "vector", "multiple"),
    {**EFFECTS.columns, **EFFECT_MULTIPLES.columns_named("multiple")},
)
EFFECTS_AT_LATER_LAYERS = Table(
    "effects_at_later_layers",
    ("layer", "vector", "read_layer"),
    {**EFFECTS.columns, **_LATER},
)


def _over_concepts(name: str, meaning: str, null_when: str | None = None) -> dict[str, Column]:
    """A mean over concepts and the ends of its interval."""
    return interval(name, meaning, "concepts", null_when, _FEW_CONCEPTS)


PERSISTENCE = Table(
    "persistence",
    ("layer", "method", "stretch"),
    {
        **FITS.columns_named("layer", "method"),
        "stretch": Column(pl.UInt16, "of the text's words, 1 the first (12 words each); whole ones that half of the concepts have"),
        **METHOD_SUMMARIES["methods"].columns_named("title", "family"),
        "n": Column(pl.UInt32, "concepts that have such a stretch; those where the method abstains have none"),
        "n_texts": Column(pl.UInt32, "of their held-out texts at the chosen factors, those that have it"),
        **_over_concepts("concept_rating", "mean over concepts of the stretch's concept rating, 0 to 2", "nothing in it could be rated"),
        **_over_concepts(
            "change",
            "its rating less that of the same text's first stretch, mean over texts, then concepts",
            "nothing in it could be rated",
        ),
        **_over_concepts("capitals", "share of words within sentences that begin with a capital, mean over concepts"),
        "confidence": Column(pl.Float64, "share of draws that every interval holds"),
    },
)
