"""The tables of a comparison of methods."""

import polars as pl

from saesteer.analysis.tables import interval_ends
from saesteer.core.tables import LAYER, Column, Table, by_name
from saesteer.core.texts import OF_TEXT, RATING_COLUMNS
from saesteer.sources.concept_tables import COMPARED_CONCEPTS

_OF_METHOD = {"layer": LAYER, "method": OF_TEXT["method"]}
_RATED = ("score", *RATING_COLUMNS)

METHOD_HALVES = Table(
    "method_halves",
    ("layer", "method", "concept_id", "factor", "half"),
    {
        **_OF_METHOD,
        **COMPARED_CONCEPTS.some("concept_id"),
        "factor": OF_TEXT["factor"],
        "half": Column(pl.UInt8, "half of the prompts, 0 or 1; 0 only where the same texts choose and report"),
        "n": Column(pl.UInt32, "texts"),
        "n_missing": Column(pl.UInt32, "of them, those without a score: a rating that it needs is null"),
        "score": Column(pl.Float64, "their score (settings: methods.score)", "no text could be rated"),
        "concept_rating": Column(pl.Float64, "mean concept rating", "none could be rated"),
        "instruction_rating": Column(pl.Float64, "mean instruction rating", "there is no instruction, or none could be rated"),
        "fluency_rating": Column(pl.Float64, "mean fluency rating", "none could be rated"),
        "concept_log_odds": Column(pl.Float64, "mean concept_log_odds of JUDGEMENTS (nats)", "none has one"),
        "log_perplexity": Column(pl.Float64, "mean over texts of mean_nll (nats per token)", "every text is empty"),
        "mean_perplexity": Column(pl.Float64, "arithmetic mean over texts of exp(mean_nll)", "every text is empty"),
        "whole_text_perplexity": Column(pl.Float64, "arithmetic mean over texts of exp(whole_text_nll)", "no text has one"),
        "gen_success_20": Column(pl.Float64, "mean GenSuccess@20 of the one SAE feature", "factors are chosen by the score"),
        "choose_by": Column(
            pl.Float64,
            "what the factor is chosen by: the score, or P1's ratio (settings: methods.factor_rule)",
            "this factor may not be chosen: no text could be rated; of P1's ratio: too much success, or every text is empty",
        ),
    },
)

METHOD_CHOICES = Table(
    "method_choices",
    ("layer", "method", "concept_id", "reported_on"),
    {
        **_OF_METHOD,
        **COMPARED_CONCEPTS.some("concept_id"),
        "reported_on": Column(pl.String, "half of the prompts reported on: 0, 1 (chosen on the other), or all (chosen on the same)"),
        "abstains": Column(pl.Boolean, "the method has no intervention: score is the unsteered text's on the same half"),
        "factor": Column(
            pl.String,
            "the chosen factor",
            "it abstains, or the half that chooses leaves none: of P1's rule, steering failed and score is 0",
        ),
        "at_smallest": Column(
            pl.Boolean,
            "the smallest of several factors was chosen",
            "no factor, one factor only, all worth the same, or prompts: they have no order",
        ),
        "at_largest": Column(
            pl.Boolean, "the largest of them was", "no factor, one factor only, all worth the same, or prompts: they have no order"
        ),
        "n": Column(pl.UInt32, "texts reported on; 0 where there is no factor"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        "score": Column(
            pl.Float64,
            "score of METHOD_HALVES on the half reported on",
            "no text of that half could be rated, or no factor could be chosen by the score",
        ),
        **{
            name: Column(
                pl.Float64, f"{name} of METHOD_HALVES on the half reported on", f"no factor, or {METHOD_HALVES.columns[name].null_when}"
            )
            for name in (*RATING_COLUMNS, "concept_log_odds", "log_perplexity")
        },
    },
)

METHOD_SCORES = Table(
    "method_scores",
    ("layer", "method", "concept_id"),
    {
        **_OF_METHOD,
        **COMPARED_CONCEPTS.some("concept_id", "concept"),
        **METHOD_CHOICES.some("abstains"),
        "reason": Column(pl.String, "why it abstains", "it does not"),
        "score": Column(pl.Float64, "mean over the halves reported on", "none of them has a score"),
        "n_halves": Column(pl.UInt8, "halves with a score behind it"),
        "factors": Column(pl.List(pl.String), "chosen factor for each half reported on; null where there is none"),
        "n_choices": Column(pl.UInt8, "choices among several factors that are not all worth the same"),
        "n_at_smallest": Column(pl.UInt8, "of them, those of its smallest factor"),
        "n_at_largest": Column(pl.UInt8, "of them, those of its largest factor"),
        "n": Column(pl.UInt32, "texts reported on"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        **METHOD_CHOICES.some("concept_rating", "instruction_rating", "fluency_rating", "concept_log_odds", "log_perplexity"),
        "change": Column(
            pl.Float64,
            (
                "chosen factor times residual_change, mean over choices: how far the residual moves, exact where that "
                "is linear in the factor"
            ),
            "no factor, or factors number prompts",
        ),
        "relative_change": Column(pl.Float64, "the same over residual_norm", "no factor, or factors number prompts"),
    },
)

METHODS_TABLE = Table(
    "methods",
    ("layer", "method"),
    {
        **_OF_METHOD,
        "title": Column(pl.String, "its name in text and figures"),
        "family": Column(pl.String, "kind of method"),
        "paper": Column(pl.String, "where it comes from"),
        "chosen_by": Column(pl.String, "what chose its features or made its vector, in the order of use"),
        "text_use": Column(pl.String, "what the concept's labelled texts are used for (saesteer.settings.registry.TEXT_USES)"),
        "n_concepts": Column(pl.UInt32, "concepts asked for"),
        "n": Column(pl.UInt32, "concepts with a score; those where it abstains have the unsteered text's"),
        "score": Column(pl.Float64, "mean over them", "no concept has a score"),
        **interval_ends("score", "concepts", "fewer than 2 concepts"),
        "rank": Column(pl.Float64, "its place in the layer by that mean, 1 the best; equals share theirs", "no concept has a score"),
        "rank_low": Column(pl.Float64, "lower end of its bootstrap interval over concepts", "fewer than 2 concepts"),
        "rank_high": Column(pl.Float64, "upper end", "fewer than 2 concepts"),
        "n_abstaining": Column(pl.UInt32, "concepts for which the method has no intervention"),
        "n_surviving": Column(pl.UInt32, "concepts with a score of the method's own"),
        "surviving_score": Column(pl.Float64, "mean over those only: flatters a method that abstains", "there are none"),
        **interval_ends("surviving", "concepts", "fewer than 2 concepts"),
        "n_texts": Column(pl.UInt32, "texts reported on"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        "concept_rating": Column(pl.Float64, "mean over concepts at the chosen factors", "no text of its own was rated"),
        "instruction_rating": Column(pl.Float64, "the same", "no instruction, or no text of its own was rated"),
        "fluency_rating": Column(pl.Float64, "the same", "no text of its own was rated"),
        "concept_log_odds": Column(pl.Float64, "mean over concepts at the chosen factors, in nats", "no text of its own has one"),
        **interval_ends("concept_log_odds", "concepts", "the same, or fewer than 30 concepts"),
        "perplexity": Column(pl.Float64, "geometric mean over concepts at the chosen factors", "no text of its own has one"),
        "median_factor": Column(pl.Float64, "median of the chosen factors", "none was chosen"),
        "median_change": Column(pl.Float64, "median over concepts of METHOD_SCORES.change", "none, or factors number prompts"),
        "median_relative_change": Column(pl.Float64, "the same as a fraction of the residual's norm", "none, or factors number prompts"),
        "n_choices": Column(pl.UInt32, "choices among several factors that are not all worth the same"),
        "share_at_smallest": Column(pl.Float64, "share of them that fell on its smallest factor", "there were none"),
        "share_at_largest": Column(pl.Float64, "share of them that fell on its largest factor", "there were none"),
        "density": Column(
            pl.Float64, "median over the SAE features used of the share of tokens with a positive activation", "none, or unknown"
        ),
        "concept_share": Column(
            pl.Float64,
            "median over those of them that are labelled with the concept of the share of their max-activating examples' maxima on it",
            "none of them is, or labels come without a share",
        ),
        "labelled_texts": Column(pl.Float64, "labelled texts that choose or train (FITS.n_texts), mean over concepts"),
        "learning_rate": Column(pl.Float64, "at which it was trained, median over concepts", "it is not trained by gradient descent"),
        "learning_rate_low": Column(pl.Float64, "the smallest", "it is not trained by gradient descent"),
        "learning_rate_high": Column(pl.Float64, "the largest", "it is not trained by gradient descent"),
        "share_at_rate_end": Column(
            pl.Float64,
            "share of fits whose learning rate is the smallest or largest of those tried",
            "it is not trained by gradient descent, or at one rate only",
        ),
        "n_epochs": Column(pl.Float64, "for how long, median", "it is not trained by gradient descent"),
        "loss_before": Column(
            pl.Float64, "loss (nats per token) on held-out texts, untrained, mean over concepts", "no texts were held out"
        ),
        "loss_after": Column(pl.Float64, "the same, trained on the other texts", "no texts were held out"),
        "fit_seconds": Column(pl.Float64, "wall time of a fit, mean over concepts"),
        "seconds_per_token": Column(pl.Float64, "wall time of generation over tokens generated, all factors", "it generated no token"),
        "r2": Column(pl.Float64, "held-out R2 of the approximator of effects, mean over concepts", "it rests on none"),
        "n_effect_vectors": Column(pl.UInt32, "vectors that the approximator is fitted on (P2: 50,000)", "it rests on none"),
        "confidence": Column(pl.Float64, "share of draws that every interval holds"),
    },
)

METHOD_DIFFERENCES = Table(
    "method_differences",
    ("layer", "method", "other"),
    {
        **_OF_METHOD,
        "other": Column(pl.String, "key of the method that is subtracted; each pair stands once, in the order of METHODS_TABLE's keys"),
        "n": Column(pl.UInt32, "concepts with a score under both"),
        "mean": Column(pl.Float64, "mean over concepts of score minus the other's", "there are none"),
        **interval_ends("", "concepts", "fewer than 2 concepts"),
        "detectable": Column(
            pl.Float64,
            "difference that as many concepts would show with probability .8 (two-sided test at 1 - confidence)",
            "fewer than 2 concepts",
        ),
        "p_all_pairs": Column(
            pl.Float64,
            (
                "two-sided p of the exact sign test, that its score is on as many concepts above the other's as "
                "below, times the layer's number of pairs, at most 1"
            ),
            "there are none",
        ),
        "win_rate": Column(
            pl.Float64, "share of concepts whose score is above the other's, a tie counting one half (P4's win rate)", "there are none"
        ),
        **interval_ends("win_rate", "concepts", "fewer than 2 concepts"),
    },
)

METHOD_CURVES = Table(
    "method_curves",
    ("layer", "method", "factor"),
    {
        **_OF_METHOD,
        **METHODS_TABLE.some("title", "family"),
        "factor": OF_TEXT["factor"],
        "n": Column(pl.UInt32, "concepts for which the method has an intervention"),
        "n_texts": Column(pl.UInt32, "their texts, of all prompts"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        **{name: Column(pl.Float64, "mean over concepts, all prompts", "none could be rated") for name in _RATED},
        **{f"{name}_low": Column(pl.Float64, "lower end of its interval over concepts", "fewer than 2 concepts") for name in _RATED},
        **{f"{name}_high": Column(pl.Float64, "upper end", "fewer than 2 concepts") for name in _RATED},
        "perplexity": Column(pl.Float64, "geometric mean over concepts", "every text is empty"),
        "n_chosen": Column(pl.UInt32, "choices that fell on this factor"),
        "method_score": Column(pl.Float64, "the method's score (METHODS_TABLE)", "no concept has a score"),
        **METHODS_TABLE.some("confidence"),
    },
)

METHOD_PUBLISHED = Table(
    "method_published",
    ("layer", "method", "source", "place", "their_model", "their_layer", "task"),
    {
        **_OF_METHOD,
        "source": Column(pl.String, "paper or public thread"),
        "place": Column(pl.String, "where the figure stands there, and which variant"),
        "their_model": Column(pl.String, "model"),
        "their_layer": Column(pl.String, "layer; empty where it is a mean or not stated"),
        "task": Column(pl.String, "the one task that the figure is of; empty for means"),
        "theirs": Column(pl.Float64, "published figure, on its own scale"),
        "their_scale": Column(pl.Float64, "largest value that their score can have"),
        "averaged": Column(pl.String, "concepts behind both figures: all, surviving, or the topic that is closest to the task"),
        "ours": Column(pl.Float64, "the same here", "no score here"),
        "our_scale": Column(pl.Float64, "largest value that our score can have"),
        "difference": Column(pl.Float64, "ours minus theirs", "no score here, or another scale"),
        "differs": Column(pl.List(pl.String), "facts of the protocol that differ"),
        "not_stated": Column(pl.List(pl.String), "facts of theirs that we do not know"),
        "matches": Column(pl.Boolean, "whether every fact is known and the same"),
    },
)

METHOD_DAMAGE = Table(
    "method_damage",
    ("layer", "method"),
    {
        **_OF_METHOD,
        **METHODS_TABLE.some("title", "family", "score", "score_low", "score_high"),
        "n": Column(pl.UInt32, "concepts; those where it abstains are not steered, so nothing is lost"),
        "loss_rise": Column(pl.Float64, "mean over them of what steering as chosen adds to the loss on ordinary texts, nats a token"),
        **interval_ends("loss_rise", "concepts", "fewer than 30 concepts"),
        "divergence": Column(pl.Float64, "mean over them of the divergence from the unsteered next-token distribution, nats"),
        **interval_ends("divergence", "concepts", "fewer than 30 concepts"),
        "unsteered_loss": Column(pl.Float64, "loss on ordinary texts, unsteered, nats a token"),
        "other_rating": Column(
            pl.Float64,
            "mean rating of all other topics in the texts at the chosen factors, 0 to 2",
            "the judge is not the shipped world's oracle",
        ),
        **interval_ends("other_rating", "concepts", "the same, or fewer than 2 concepts"),
        **METHODS_TABLE.some("confidence"),
    },
)

METHOD_EQUAL_COST_SCORES = Table(
    "method_equal_cost_scores",
    ("layer", "method", "limit", "concept_id"),
    {
        **_OF_METHOD,
        "limit": Column(pl.Float64, "most divergence (DAMAGE) at which a fit may steer, nats"),
        **COMPARED_CONCEPTS.some("concept_id"),
        "score": Column(
            pl.Float64,
            "mean over the halves reported on, the factor chosen among those within the limit; where it abstains, the unsteered text's",
            "none of them has a score",
        ),
        "divergence": Column(
            pl.Float64, "mean over them of the divergence at the factor chosen, 0 where it abstains, nats", "no factor could be chosen"
        ),
        "abstains": Column(pl.Boolean, "no factor is within the limit, or the method abstains anyway"),
    },
)

METHOD_EQUAL_COST = Table(
    "method_equal_cost",
    ("layer", "method", "limit"),
    {
        **_OF_METHOD,
        **METHOD_EQUAL_COST_SCORES.some("limit"),
        **METHODS_TABLE.some("title", "family"),
        "n_concepts": Column(pl.UInt32, "concepts asked for"),
        "n": Column(pl.UInt32, "concepts with a score; those unsteered have the unsteered text's"),
        "score": Column(pl.Float64, "mean score over them, the factor chosen among those within the limit", "no concept has a score"),
        **interval_ends("score", "concepts", "fewer than 2 concepts"),
        "divergence": Column(
            pl.Float64, "mean over concepts of the divergence at the factors chosen, 0 where unsteered, nats", "no factor could be chosen"
        ),
        **interval_ends("divergence", "concepts", "fewer than 30 concepts"),
        "share_unsteered": Column(
            pl.Float64, "share of the concepts for which no factor is within the limit, or the method abstains anyway"
        ),
        "unlimited_score": METHODS_TABLE.columns["score"],
        "unlimited_score_low": METHODS_TABLE.columns["score_low"],
        "unlimited_score_high": METHODS_TABLE.columns["score_high"],
        "rank_correlation": Column(
            pl.Float64,
            "Spearman's rho over the layer's methods of score and unlimited_score, the same for every method",
            "scores do not vary",
        ),
        **interval_ends("rank_correlation", "methods", "the same, or fewer than 4 methods"),
        **METHODS_TABLE.some("confidence"),
    },
)
METHOD_SUMMARIES = by_name(METHOD_HALVES, METHOD_CHOICES, METHOD_SCORES, METHODS_TABLE, METHOD_DIFFERENCES, METHOD_CURVES, METHOD_PUBLISHED)
