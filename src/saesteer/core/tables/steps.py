"""Step tables: rows in the part store, one a key. What belongs to a key in any number is a list in its row.

A column is nullable only where it says when it is null.
"""

import polars as pl

from saesteer.core.tables.schema import Column, Table, by_name

RECORD = pl.Struct(
    {
        "rank": pl.UInt16,  # 0 = largest maximum
        "text_id": pl.String,  # Neuronpedia's id of the record where it is the source
        "token_index": pl.UInt16,  # position of the maximum in the text
        "token": pl.String,  # as the tokenizer writes it ("▁" kept); of byte-level ones the text that it stands for
        "token_id": pl.UInt32,  # null where the source has none
        "max_value": pl.Float32,
        "context": pl.List(pl.String),  # the text's tokens
    }
)

LAYER = Column(pl.UInt16, "decoder layer, 0-based")
FEATURE = Column(pl.UInt32, "index of the feature in its layer's SAE")
FACTOR = Column(pl.String, "steering factor, a canonical decimal: of single features in multiples of a_max, of a method in its own unit")
METHOD = Column(pl.String, "key of the method in saesteer.settings.registry, or `feature`: a single feature")
PREFIX = Column(pl.String, "first 16 hex digits of the SHA-256 of the prefix's text")
SAMPLE = Column(pl.UInt32, "number of the sample, 0-based")
TEXT = Column(pl.String, "first 16 hex digits of the SHA-256 of the text")
PER_FEATURE = {"layer": LAYER, "feature": FEATURE}
FEATURE_TEXT = ("layer", "feature", "factor", "prefix_id", "sample")
"""Keys of a text of a single feature, where no other texts are."""
FIT_TEXT = ("layer", "method", "concept_id", "factor", "prefix_id", "sample")
"""Keys of a text of a fit, where no other texts are."""
SINGLE_FEATURE = "feature"
"""The `method` of texts that one feature steers, as in P1."""
NO_FIT = "the method abstains"
NOT_FINITE = "logits are not finite"
"""Why there is no text, or no loss: steered so hard, a model computes no numbers."""


def reason_for(column: str) -> Column:
    """The column that says why another is null."""
    return Column(pl.String, f"why {column} is null", f"{column} is not null")


ACTIVATIONS = Table(
    "activations",
    ("layer", "text_id"),
    {
        "layer": LAYER,
        "text_id": TEXT,
        "n_tokens": Column(pl.UInt16, "tokens of the text, BOS included"),
        "token_index": Column(pl.List(pl.UInt16), "position of each non-zero code, BOS (0) left out"),
        "feature": Column(pl.List(pl.UInt32), "feature of each non-zero code"),
        "value": Column(pl.List(pl.Float32), "SAE code (activation), > 0"),
    },
)
RECORDS = Table(
    "records",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        "density": Column(pl.Float64, "share of tokens on which the feature is active", "the source has no density"),
        "max_activation": Column(pl.Float32, "largest activation", "the feature is never active"),
        "n_records": Column(pl.UInt32, "records kept"),
        "records": Column(pl.List(RECORD), "texts with the largest maxima; ties broken by text_id"),
        "explanations": Column(
            pl.List(pl.String), "all that the source says the feature means: type oai_token-act-pair first, then by type, model and text"
        ),
        "source": Column(pl.String, "local or neuronpedia"),
        "reason": Column(pl.String, "why there are no records", "there are some"),
    },
)
CONCEPTS = Table(
    "concepts",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        "concept": Column(pl.String, "the source's explanation, or the topic of highest lift", "no topic is clear; see reason"),
        "concept_share": Column(pl.Float64, "share of the records' maxima on that topic", "no record is on a topic"),
        "lift": Column(pl.Float64, "that share over the topic's of all labelled tokens", "no record is on a topic"),
        "reason": reason_for("concept"),
    },
)
LOGIT_LENS = Table(
    "logit_lens",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        "token_ids": Column(pl.List(pl.UInt32), "lens tokens, most promoted first"),
        "tokens": Column(pl.List(pl.String), "their strings, as in records"),
        "logits": Column(pl.List(pl.Float32), "lm_head(final_norm(decoder direction)), no soft cap"),
    },
)
INPUT_SCORE = Table(
    "input_score",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        "input_score": Column(pl.Float64, "P1's S_in, in [0, 1]", "too few records; see reason"),
        "n_records": Column(pl.UInt32, "records it is the mean of"),
        "reason": reason_for("input_score"),
    },
)
OUTPUT_SCORE = Table(
    "output_score",
    ("layer", "feature"),
    {
        **PER_FEATURE,
        "output_score": Column(pl.Float64, "P1's S_out, in [0, 1]"),
        "min_rank": Column(pl.UInt32, "rank of the best lens token after steering, 0-based"),
        "max_prob": Column(pl.Float64, "probability of that token"),
        "delta_token_confidence": Column(pl.Float64, "log probability (nats) of the likeliest token unsteered, minus steered; P5"),
        "a_max": Column(
            pl.Float64, "largest activation of any feature at the prompt's last position, times the size that the SAE divides its input by"
        ),
    },
)
PER_GENERATION = {
    "layer": LAYER,
    "method": METHOD,
    "target": Column(pl.String, "what it steers towards: the number of the single feature, or a concept_id"),
    "factor": FACTOR,
    "prefix_id": PREFIX,
    "sample": SAMPLE,
}
"""The key of a text names the intervention behind it: a single feature (method "feature") or the fit of a method, at a factor."""

TEXT_COLUMNS = {
    "token_ids": Column(pl.List(pl.UInt32), "generated tokens, the one that ended the text included", "see reason"),
    "text": Column(pl.String, "the continuation or response", "the method abstains, or logits are not finite; see reason"),
    "n_tokens": Column(pl.UInt16, "number of generated tokens; 0 where there is no text"),
    "stopped": Column(pl.Boolean, "ended by the stop text or EOS, not by length"),
    "seconds": Column(
        pl.Float64,
        "its share of its batch's wall time",
        "single features: their rows are the same whenever they are made",
        is_wall_time=True,
    ),
    "reason": reason_for("text"),
}
GENERATIONS = Table("generations", tuple(PER_GENERATION), {**PER_GENERATION, **TEXT_COLUMNS})
_NO_COUNT = "the intervention is not one feature, or there is no text; see reason"
GEN_SUCCESS = Table(
    "gen_success",
    GENERATIONS.keys,
    {
        **PER_GENERATION,
        "gen_success_1": Column(pl.UInt16, "tokens of the continuation that are the feature's first lens token", _NO_COUNT),
        "gen_success_5": Column(pl.UInt16, "... that are among the first 5", _NO_COUNT),
        "gen_success_20": Column(pl.UInt16, "... that are among the first 20", _NO_COUNT),
        "reason": reason_for("gen_success_20"),
    },
)
PERPLEXITY = Table(
    "perplexity",
    GENERATIONS.keys,
    {
        **PER_GENERATION,
        "mean_nll": Column(
            pl.Float64,
            "mean loss per token in nats, given the prefix; perplexity is its exp",
            "the continuation is empty, there is none, or its loss is not finite",
        ),
        "n_scored": Column(pl.UInt16, "tokens scored"),
        "whole_text_nll": Column(
            pl.Float64,
            "mean loss per token in nats of prefix and continuation together",
            "there is no continuation, both together are one token, or the loss is not finite",
        ),
        "reason": reason_for("mean_nll"),
    },
)
JUDGEMENTS = Table(
    "judge",
    GENERATIONS.keys,
    {
        **PER_GENERATION,
        "concept_rating": Column(pl.UInt8, "0, 1 or 2: how much the text is about the feature's concept", "see reason"),
        "instruction_rating": Column(
            pl.UInt8, "0, 1 or 2: how well the text answers the instruction", "there is no instruction, or see reason"
        ),
        "fluency_rating": Column(pl.UInt8, "0, 1 or 2: how well-formed the text is", "see reason"),
        "judge_score": Column(pl.Float64, "harmonic mean of those that apply, 0 if any is 0", "one that applies is null"),
        "reason": reason_for("judge_score"),
    },
)
STEPS = by_name(ACTIVATIONS, RECORDS, CONCEPTS, LOGIT_LENS, INPUT_SCORE, OUTPUT_SCORE, GENERATIONS, GEN_SUCCESS, PERPLEXITY, JUDGEMENTS)


def of_features(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of single features with the keys FEATURE_TEXT, sorted by them."""
    renamed = rows.drop("method").rename({"target": "feature"}).cast({"feature": pl.UInt32})
    return renamed.select(*FEATURE_TEXT, *(name for name in renamed.columns if name not in FEATURE_TEXT)).sort(FEATURE_TEXT)


def of_fits(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of fits with the keys FIT_TEXT."""
    return rows.rename({"target": "concept_id"})


def as_generations(rows: pl.DataFrame) -> pl.DataFrame:
    """The opposite of both: rows with the keys of GENERATIONS first."""
    if "feature" in rows.columns:
        rows = rows.rename({"feature": "target"}).cast({"target": pl.String}).with_columns(method=pl.lit(SINGLE_FEATURE))
    else:
        rows = rows.rename({"concept_id": "target"})
    return rows.select(*GENERATIONS.keys, *(name for name in rows.columns if name not in GENERATIONS.keys))
