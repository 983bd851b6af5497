"""Tables of the comparison of steering methods: training texts, fits, steered texts and their ratings, and what is said about them."""

import polars as pl

from saesteer.core.tables.schema import Column, Table, by_name, interval
from saesteer.core.tables.steps import FACTOR, LAYER, METHOD, reason_for

CONCEPT_ID = Column(pl.String, "first 16 hex digits of the SHA-256 of the concept's text")
PER_FIT = {"layer": LAYER, "method": METHOD, "concept_id": CONCEPT_ID}

ASKED_CONCEPTS = Table(
    "asked_concepts",
    ("concept_id",),
    {
        "concept_id": CONCEPT_ID,
        "concept": Column(pl.String, "what the texts should be about"),
        "label_feature": Column(pl.UInt32, "the feature that the concept labels", "the source names none (topics: see table features)"),
    },
)
CONCEPT_TEXTS = Table(
    "concept_texts",
    ("concept_id", "positive", "number"),
    {
        "concept_id": CONCEPT_ID,
        "positive": Column(pl.Boolean, "whether the text shows the concept"),
        "number": Column(pl.UInt32, "number of the text among its like, 0-based"),
        "input": Column(pl.String, "prompt that the text follows; may be empty"),
        "output": Column(pl.String, "the text"),
    },
)
STEERING_PROMPTS = Table(
    "steering_prompts",
    ("concept_id", "number"),
    {
        "concept_id": CONCEPT_ID,
        "number": Column(pl.UInt8, "number of the prompt, from the least insistent, 1"),
        "prompt": Column(
            pl.String, "what a language model wrote, to be put before a request", "it wrote nothing that can be used; see reason"
        ),
        "model": Column(pl.String, "the model as it names itself", "it does not say"),
        "reason": reason_for("prompt"),
    },
    file="{name}/prompts.parquet",  # beside the answers, which were paid for
)
EFFECTS = Table(
    "effects",
    ("layer", "vector"),
    {
        "layer": LAYER,
        "vector": Column(pl.UInt32, "number of the vector added"),
        "direction": Column(pl.List(pl.Float32), "the vector, scaled as it was added at every position"),
        "effect": Column(pl.List(pl.Float32), "mean SAE code of each feature on texts written with it, less that on unsteered texts"),
        "loss_rise": Column(pl.Float64, "by how much it raises the mean loss (nats per token) of unsteered texts"),
    },
)
FITS = Table(
    "fits",
    ("layer", "method", "concept_id"),
    {
        **PER_FIT,
        "kind": Column(pl.String, "kind of intervention (saesteer.engine.interventions)", "the method abstains; see reason"),
        "tensors": Column(pl.Binary, "the intervention's tensors, as safetensors", "the method abstains; see reason"),
        "values": Column(pl.String, "its other values, as JSON", "the method abstains; see reason"),
        "features": Column(pl.List(pl.UInt32), "SAE features that it uses; empty where it uses none"),
        "residual_change": Column(
            pl.Float64, "norm of the change of the residual at the layer at factor 1, mean over neutral prompts' tokens", "it abstains"
        ),
        "residual_norm": Column(pl.Float64, "norm of the unsteered residual there, mean", "it abstains"),
        "n_texts": Column(pl.UInt32, "labelled texts that chose its features, made its vector or stand in its prompts"),
        "learning_rate": Column(pl.Float64, "at which it was trained", "it is not trained by gradient descent, or abstains"),
        "n_epochs": Column(pl.UInt32, "for how long", "it is not trained by gradient descent, or abstains"),
        "loss_before": Column(pl.Float64, "loss (nats per token) on held-out texts, untrained", "no texts were held out"),
        "loss_after": Column(pl.Float64, "the same, trained on the others so long at that rate", "no texts were held out"),
        "r2": Column(pl.Float64, "held-out R2 of the approximator of effects that it rests on", "it rests on none"),
        "fit_seconds": Column(pl.Float64, "wall time of the fit", is_wall_time=True),
        "reason": reason_for("kind"),
    },
)
DAMAGE = Table(
    "damage",
    ("layer", "method", "concept_id", "factor"),
    {
        **PER_FIT,
        "factor": FACTOR,
        "loss": Column(pl.Float64, "mean over tokens of ordinary texts, steered, of -log p, in nats"),
        "unsteered_loss": Column(pl.Float64, "the same, unsteered"),
        "divergence": Column(
            pl.Float64,
            "mean over the tokens of the Kullback-Leibler divergence of the next-token distribution from the unsteered one",
        ),
        "n_tokens": Column(pl.UInt32, "tokens counted"),
    },
)
METHOD_STEPS = by_name(EFFECTS, FITS, DAMAGE)

METHOD_HALVES = Table(
    "method_halves",
    ("layer", "method", "concept_id", "factor", "half"),
    {
        **PER_FIT,
        "factor": FACTOR,
        "half": Column(pl.UInt8, "half of the prompts, 0 or 1; 0 only where the same texts choose and report"),
        "n": Column(pl.UInt32, "texts"),
        "n_missing": Column(pl.UInt32, "of them, those without a score: a rating that it needs is null"),
        "score": Column(pl.Float64, "their score (settings: methods.score)", "no text could be rated"),
        "concept_rating": Column(pl.Float64, "mean concept rating", "none could be rated"),
        "instruction_rating": Column(pl.Float64, "mean instruction rating", "there is no instruction, or none could be rated"),
        "fluency_rating": Column(pl.Float64, "mean fluency rating", "none could be rated"),
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
        **PER_FIT,
        "reported_on": Column(pl.String, "half of the prompts reported on: 0, 1 (chosen on the other), or all (chosen on the same)"),
        "abstains": Column(pl.Boolean, "the method has no intervention: score is the unsteered text's on the same half"),
        "factor": Column(
            pl.String,
            "the chosen factor",
            "it abstains, or the half that chooses leaves none: of P1's rule, steering failed and score is 0",
        ),
        "at_grid_end": Column(
            pl.Boolean,
            "the smallest or largest of several factors was chosen",
            "no factor, one factor only, or prompts: they have no order",
        ),
        "n": Column(pl.UInt32, "texts reported on; 0 where there is no factor"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        **{
            name: Column(pl.Float64, f"{name} of METHOD_HALVES on the half reported on", null_when)
            for name, null_when in {
                "score": "no text of that half could be rated, or no factor could be chosen by the score",
                "concept_rating": "no factor, or none could be rated",
                "instruction_rating": "no factor, no instruction, or none could be rated",
                "fluency_rating": "no factor, or none could be rated",
                "log_perplexity": "no factor, or every text is empty",
            }.items()
        },
    },
)
METHOD_SCORES = Table(
    "method_scores",
    ("layer", "method", "concept_id"),
    {
        **PER_FIT,
        **ASKED_CONCEPTS.columns_named("concept"),
        **METHOD_CHOICES.columns_named("abstains"),
        "reason": Column(pl.String, "why it abstains", "it does not"),
        "score": Column(pl.Float64, "mean over the halves reported on", "none of them has a score"),
        "n_halves": Column(pl.UInt8, "halves with a score behind it"),
        "factors": Column(pl.List(pl.String), "chosen factor for each half reported on; null where there is none"),
        "n_choices": Column(pl.UInt8, "choices that could fall on a grid's end"),
        "n_at_grid_end": Column(pl.UInt8, "of them, those that did"),
        "n": Column(pl.UInt32, "texts reported on"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        **METHOD_CHOICES.columns_named("concept_rating", "instruction_rating", "fluency_rating", "log_perplexity"),
        "change": Column(
            pl.Float64,
            "chosen factor times residual_change, mean over choices: how far the residual moves, exact where that is linear in the factor",
            "no factor, or factors number prompts",
        ),
        "relative_change": Column(pl.Float64, "the same over residual_norm", "no factor, or factors number prompts"),
    },
)
_INTERVAL_NULL = "fewer than 2 concepts"


def _mean(name: str, meaning: str, null_when: str | None = None, ends: str | None = None) -> dict[str, Column]:
    """A mean over concepts and the ends of its interval."""
    return interval(name, meaning, "concepts", null_when, _INTERVAL_NULL, ends)


_UNTRAINED, _NONE_HELD_OUT = "it is not trained by gradient descent", "no texts were held out"
METHODS_TABLE = Table(
    "methods",
    ("layer", "method"),
    {
        "layer": LAYER,
        "method": METHOD,
        "title": Column(pl.String, "its name in text and figures"),
        "family": Column(pl.String, "kind of method"),
        "paper": Column(pl.String, "where it comes from"),
        "chosen_by": Column(pl.String, "what chose its features or made its vector, in the order of use"),
        "text_use": Column(pl.String, "what the concept's labelled texts are used for (saesteer.settings.registry.TEXT_USES)"),
        "n_concepts": Column(pl.UInt32, "concepts asked for"),
        "n": Column(pl.UInt32, "concepts with a score; those where it abstains have the unsteered text's"),
        **_mean("score", "mean over them", "no concept has a score"),
        **_mean("rank", "its place in the layer by that mean, 1 the best; equals share theirs", "no concept has a score"),
        "n_abstaining": Column(pl.UInt32, "concepts for which the method has no intervention"),
        "n_surviving": Column(pl.UInt32, "concepts with a score of the method's own"),
        **_mean("surviving_score", "mean over those only: flatters a method that abstains", "there are none", ends="surviving_"),
        "n_texts": Column(pl.UInt32, "texts reported on"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        "concept_rating": Column(pl.Float64, "mean over concepts at the chosen factors", "no text of its own was rated"),
        "instruction_rating": Column(pl.Float64, "the same", "no instruction, or no text of its own was rated"),
        "fluency_rating": Column(pl.Float64, "the same", "no text of its own was rated"),
        "perplexity": Column(pl.Float64, "geometric mean over concepts at the chosen factors", "no text of its own has one"),
        "median_factor": Column(pl.Float64, "median of the chosen factors", "none was chosen"),
        "median_change": Column(pl.Float64, "median over concepts of METHOD_SCORES.change", "none, or factors number prompts"),
        "median_relative_change": Column(pl.Float64, "the same as a fraction of the residual's norm", "none, or factors number prompts"),
        "n_choices": Column(pl.UInt32, "choices that could fall on a grid's end"),
        "share_at_grid_end": Column(pl.Float64, "share of them that did", "there were none"),
        "density": Column(
            pl.Float64, "median over the SAE features used of the share of tokens with a positive activation", "none, or unknown"
        ),
        "concept_share": Column(
            pl.Float64,
            "median over those of them that are labelled with the concept of the share of their records' maxima on it",
            "none of them is, or labels come without a share",
        ),
        "labelled_texts": Column(pl.Float64, "labelled texts that choose or train (FITS.n_texts), mean over concepts"),
        "learning_rate": Column(pl.Float64, "at which it was trained, median over concepts", _UNTRAINED),
        "learning_rate_low": Column(pl.Float64, "the smallest", _UNTRAINED),
        "learning_rate_high": Column(pl.Float64, "the largest", _UNTRAINED),
        "n_epochs": Column(pl.Float64, "for how long, median", _UNTRAINED),
        "loss_before": Column(pl.Float64, "loss (nats per token) on held-out texts, untrained, mean over concepts", _NONE_HELD_OUT),
        "loss_after": Column(pl.Float64, "the same, trained on the other texts", _NONE_HELD_OUT),
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
        "layer": LAYER,
        "method": METHOD,
        "other": Column(pl.String, "key of the method that is subtracted; each pair stands once, in the order of METHODS_TABLE's keys"),
        "n": Column(pl.UInt32, "concepts with a score under both"),
        **_mean("mean", "mean over concepts of score minus the other's", "there are none", ends=""),
        "detectable": Column(
            pl.Float64, "difference that as many concepts would show with probability .8 (two-sided test at 1 - confidence)", _INTERVAL_NULL
        ),
        "simultaneous_low": Column(pl.Float64, "lower end of the interval that covers all of the layer's pairs together", _INTERVAL_NULL),
        "simultaneous_high": Column(pl.Float64, "upper end", _INTERVAL_NULL),
    },
)
METHOD_DAMAGE = Table(
    "method_damage",
    ("layer", "method"),
    {
        "layer": LAYER,
        "method": METHOD,
        **METHODS_TABLE.columns_named("title", "family", "score", "score_low", "score_high"),
        "n": Column(pl.UInt32, "concepts; those where it abstains are not steered, so nothing is lost"),
        **_mean("loss_rise", "mean over them of what steering as chosen adds to the loss on ordinary texts, nats a token"),
        **_mean("divergence", "mean over them of the divergence from the unsteered next-token distribution, nats"),
        "unsteered_loss": Column(pl.Float64, "loss on ordinary texts, unsteered, nats a token"),
        **interval(
            "other_rating",
            "mean rating of all other topics in the texts at the chosen factors, 0 to 2",
            "concepts",
            "the judge is not the shipped world's oracle",
            "the same, or fewer than 2 concepts",
        ),
        **METHODS_TABLE.columns_named("confidence"),
    },
)
_MEANS = {
    name: _mean(name, "mean over concepts, all prompts", "none could be rated")
    for name in ("score", "concept_rating", "instruction_rating", "fluency_rating")
}
METHOD_CURVES = Table(
    "method_curves",
    ("layer", "method", "factor"),
    {
        "layer": LAYER,
        "method": METHOD,
        **METHODS_TABLE.columns_named("title", "family"),
        "factor": FACTOR,
        "n": Column(pl.UInt32, "concepts for which the method has an intervention"),
        "n_texts": Column(pl.UInt32, "their texts, of all prompts"),
        "n_missing": Column(pl.UInt32, "of them, those without a score"),
        **{f"{name}{end}": columns[f"{name}{end}"] for end in ("", "_low", "_high") for name, columns in _MEANS.items()},
        "perplexity": Column(pl.Float64, "geometric mean over concepts", "every text is empty"),
        "n_chosen": Column(pl.UInt32, "choices that fell on this factor"),
        "method_score": Column(pl.Float64, "the method's held-out score (METHODS_TABLE)", "no concept has a score"),
        **METHODS_TABLE.columns_named("confidence"),
    },
)
METHOD_PUBLISHED = Table(
    "method_published",
    ("layer", "method", "source", "place", "their_model", "their_layer", "task"),
    {
        "layer": LAYER,
        "method": METHOD,
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
METHOD_SUMMARIES = by_name(METHOD_HALVES, METHOD_CHOICES, METHOD_SCORES, METHODS_TABLE, METHOD_DIFFERENCES, METHOD_CURVES, METHOD_PUBLISHED)
