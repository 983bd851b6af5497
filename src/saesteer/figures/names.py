"""Which figures there are, which summary tables each reads, and how each is to be read: all that the workflow needs to know before it
draws."""

FIGURE_TABLES: dict[str, tuple[str, ...]] = {
    "overview": ("features", "outcomes", "selection", "factor_bins"),
    "roles": ("features",),
    "gen_success_by_threshold": ("selection",),
    "input_vs_output": ("features",),
    "output_score_vs_outcome": ("outcomes",),
    "by_factor": ("factor_bins",),
    "judge_kept_removed": ("selection",),
    "pmi_by_threshold": ("pmi",),
    "examples": ("examples",),
}
"""Figure -> the tables it reads: one, but for the overview."""

PMI_TABLES = ("feature_pmi", "pmi")
"""Tables that need texts whose co-occurrences can be counted."""

METHOD_FIGURE_TABLES: dict[str, tuple[str, ...]] = {
    "methods": ("methods",),
    "method_curves": ("method_curves",),
    "method_differences": ("methods", "method_differences"),
    "method_damage": ("method_damage",),
}
"""Figures of the comparison of steering methods -> the tables that each reads."""

QUESTION_FIGURE_TABLES: dict[str, tuple[str, ...]] = {
    "choice_rules": ("choice_rules",),
    "quantity_correlations": ("quantity_correlations",),
    "headline_samples": ("headline_samples",),
    "threshold_curves": ("threshold_curves", "threshold_transfer"),
    "grid_ends": ("grid_ends",),
    "setting_agreement": ("setting_agreement",),
    "data_sizes": ("data_sizes",),
    "predictor": ("predictions", "predictor_weights", "choice_rules"),
}
"""Figures of what the papers leave open, where every feature was steered and judged -> the tables that each reads."""

EFFECT_FIGURE_TABLES: dict[str, tuple[str, ...]] = {"effects": ("approximator_sizes", "effect_multiples")}
"""Figures of what the approximator of steering's effects leaves open -> the tables that each reads."""

PERSISTENCE_FIGURE_TABLES: dict[str, tuple[str, ...]] = {"persistence": ("persistence",)}
"""Figures of long texts, rated stretch by stretch -> the tables that each reads."""

ALL_FIGURE_TABLES = FIGURE_TABLES | METHOD_FIGURE_TABLES | QUESTION_FIGURE_TABLES | EFFECT_FIGURE_TABLES | PERSISTENCE_FIGURE_TABLES

CAPTIONS = {
    "overview": (
        "(a) Scores by layer. (b) The two scores of each feature. (c) Output score against held-out success. (d) Success against the "
        "filter's threshold, with random removal. (e) Success against steering factor by output score. (f) Judge score, kept and "
        "removed, where texts were rated."
    ),
    "roles": (
        "Median (line) and inter-quartile range (band) of the input score (blue) and output score (magenta) of each layer's features: "
        "features of early layers say what is read, features of late layers what will be written."
    ),
    "gen_success_by_threshold": (
        "Mean GenSuccess@20 on held-out prefixes of the features kept at each threshold of the output score (magenta), and when as many "
        "features are removed at random (grey); a filter works where magenta leaves the grey band."
    ),
    "input_vs_output": (
        "Each point is a feature, coloured by its layer; the lines at .5 part the four cases and each quarter says how many lie in it: "
        "few features score high on both."
    ),
    "output_score_vs_outcome": (
        "Each point is a feature: its output score against what steering with it reaches on held-out prefixes, by lens tokens written "
        "(left) and by the judge (right, where texts were rated). The correlation within layers cannot come from depth."
    ),
    "by_factor": (
        "Mean GenSuccess@20 (left) and geometric mean perplexity (right) at each steering factor, one line for each bin of the output "
        "score: success that comes before perplexity rises is useful, success after it is repetition."
    ),
    "judge_kept_removed": (
        "Mean rating by the judge of text steered with the features kept at each threshold (magenta) and with those removed (grey): how "
        "much it is about the feature's concept, how well-formed it is, and the mean of the texts' harmonic means."
    ),
    "pmi_by_threshold": (
        "Mean pointwise mutual information of the tokens a feature makes the model write most with its lens tokens, by threshold of the "
        "output score; above 0 they occur together in texts more often than by chance, and a token is never paired with itself."
    ),
    "examples": (
        "Example features with their scores, the tokens they promote, the text they fire on most (its token in brackets), and the same "
        "prefix continued without and with steering."
    ),
    "choice_rules": (
        "Held-out judge score of the feature that each rule picks for a concept, among all features of the layer that are labelled with "
        "it: every one was steered and judged. Brute force picks by the judge's scores on the other half. Marks: ways to choose the factor."
    ),
    "quantity_correlations": (
        "Rank correlation, over a layer's features, of each cheap quantity with the judge's score of the text (black), with the number "
        "of lens tokens that steering writes (magenta), and with the factor that is best (blue): what a filter promises and what is "
        "wanted can differ."
    ),
    "headline_samples": (
        "Mean of the features that P1's filter keeps over the mean of all: of the whole population, with its interval (black), and in "
        "random samples of as many features a layer as the shipped headline is made of (grey). At 1 the filter changes nothing."
    ),
    "threshold_curves": (
        "Mean of the features that each threshold of the output score keeps, less the mean of all, in each layer; and the threshold "
        "that is best on some features, where it was chosen (hollow) and on features that it was not chosen on (filled)."
    ),
    "grid_ends": (
        "Shares of the chosen factors that are the grid's smallest or largest (left), and what choosing from fewer factors changes in "
        "the held-out judge score (right), for each rule that chooses factors."
    ),
    "setting_agreement": (
        "The output score at other factors (left) and other neutral prompts (right) against the experiment's own setting: rank "
        "correlations with it, with what steering reaches, and overlap of the features kept."
    ),
    "data_sizes": (
        "Quantities from fewer records of a feature, or from fewer labelled texts: rank correlation with the same quantity from most "
        "(left), and the held-out judge score of the feature that it picks for a concept (right)."
    ),
    "predictor": (
        "Left: held-out judge score of the feature that a ridge regression on all quantities picks, trained on the other layers, beside "
        "single quantities. Right: its weights, for one standard deviation of each quantity."
    ),
    "effects": (
        "Left: how much of the effects of vectors it was not fitted on the approximator of SAE-TS explains, by the number of vectors "
        "that it is fitted on, and a kernel regression on the same ones. Right: vectors at multiples of the fitted scale: the effect's norm"
        " over that at 1, its cosine with that at 1, and the cosine of predicted and measured effects."
    ),
    "methods": (
        "Held-out score of every method, mean over all concepts, where one that abstains counts as the unsteered text (dashed line). "
        "Hollow: over the concepts alone for which the method has something to steer with."
    ),
    "method_curves": (
        "Mean concept rating against mean fluency rating at every factor (a number marks the weakest and the strongest), for the best "
        "methods of each family: steering is good where a curve climbs before it turns left."
    ),
    "method_differences": ("Mean over concepts of the row's score minus the column's, best methods first, paired by concept."),
    "persistence": (
        "Mean concept rating of successive stretches of held-out texts at the chosen factors, each by itself: a line that falls loses "
        "the concept as the text goes on. A stretch is shorter than what the judge was measured on, so levels are lower than scores."
    ),
    "method_damage": (
        "Held-out score of every method against what steering at the chosen factors adds to the loss on ordinary text, which is not about "
        "the concept: a method is worth its damage where no other lies above it and to its left (the line)."
    ),
}
"""Figure -> what is shown and how to read it: its caption in the report (`saesteer report`), and in its log."""
