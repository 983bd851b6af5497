"""Columns, dtypes, units and keys of every table on disk: one schema a table, validated on write and on read.

A step table (STEPS) has one row a key, so "is it computed?" is an anti-join on the key columns; what belongs to a key in any
number (records of a feature, tokens of a generation) is a list in that row. A summary table (SUMMARIES) is computed afresh.
A column is nullable only where it says when it is null.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.files import write_atomically


class TableError(ValueError):
    """A table that breaks its schema; the message names the table, the column and the first bad row."""


@dataclass(frozen=True)
class Column:
    dtype: Any  # a polars data type
    meaning: str
    null_when: str | None = None


@dataclass(frozen=True)
class Table:
    name: str
    keys: tuple[str, ...]
    columns: dict[str, Column]

    @property
    def schema(self) -> dict[str, Any]:
        return {name: column.dtype for name, column in self.columns.items()}

    @property
    def key_schema(self) -> dict[str, Any]:
        return {name: self.columns[name].dtype for name in self.keys}


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

_LAYER = Column(pl.UInt16, "decoder layer, 0-based")
_FEATURE = Column(pl.UInt32, "index of the feature in its layer's SAE")
_FACTOR = Column(pl.String, "steering factor, a canonical decimal, in multiples of a_max")
_PREFIX = Column(pl.String, "first 16 hex digits of the SHA-256 of the prefix's text")
_SAMPLE = Column(pl.UInt32, "number of the sample, 0-based")
_TEXT = Column(pl.String, "first 16 hex digits of the SHA-256 of the text")
_PER_FEATURE = {"layer": _LAYER, "feature": _FEATURE}
_PER_GENERATION = {**_PER_FEATURE, "factor": _FACTOR, "prefix_id": _PREFIX, "sample": _SAMPLE}


def _reason(column: str) -> Column:
    return Column(pl.String, f"why {column} is null", f"{column} is not null")


ACTIVATIONS = Table(
    "activations",
    ("layer", "text_id"),
    {
        "layer": _LAYER,
        "text_id": _TEXT,
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
        **_PER_FEATURE,
        "density": Column(pl.Float64, "share of tokens on which the feature is active", "the source has no density"),
        "max_activation": Column(pl.Float32, "largest activation", "the feature is never active"),
        "n_records": Column(pl.UInt32, "records kept"),
        "records": Column(pl.List(RECORD), "texts with the largest maxima; ties broken by text_id"),
        "explanation": Column(pl.String, "what the source says the feature means", "the source has none"),
        "source": Column(pl.String, "local or neuronpedia"),
        "reason": Column(pl.String, "why there are no records", "there are some"),
    },
)
CONCEPTS = Table(
    "concepts",
    ("layer", "feature"),
    {
        **_PER_FEATURE,
        "concept": Column(pl.String, "the source's explanation, or the topic of highest lift", "no topic is clear; see reason"),
        "concept_share": Column(pl.Float64, "share of the records' maxima on that topic", "no record is on a topic"),
        "lift": Column(pl.Float64, "that share over the topic's of all labelled tokens", "no record is on a topic"),
        "reason": _reason("concept"),
    },
)
LOGIT_LENS = Table(
    "logit_lens",
    ("layer", "feature"),
    {
        **_PER_FEATURE,
        "token_ids": Column(pl.List(pl.UInt32), "lens tokens, most promoted first"),
        "tokens": Column(pl.List(pl.String), "their strings, as in records"),
        "logits": Column(pl.List(pl.Float32), "lm_head(final_norm(decoder direction)), no soft cap"),
    },
)
INPUT_SCORE = Table(
    "input_score",
    ("layer", "feature"),
    {
        **_PER_FEATURE,
        "input_score": Column(pl.Float64, "P1's S_in, in [0, 1]", "too few records; see reason"),
        "n_records": Column(pl.UInt32, "records it is the mean of"),
        "reason": _reason("input_score"),
    },
)
OUTPUT_SCORE = Table(
    "output_score",
    ("layer", "feature"),
    {
        **_PER_FEATURE,
        "output_score": Column(pl.Float64, "P1's S_out, in [0, 1]"),
        "min_rank": Column(pl.UInt32, "rank of the best lens token after steering, 0-based"),
        "max_prob": Column(pl.Float64, "probability of that token"),
        "a_max": Column(pl.Float64, "largest activation of any feature at the prompt's last position"),
    },
)
GENERATIONS = Table(
    "sweep",
    ("layer", "feature", "factor", "prefix_id", "sample"),
    {
        **_PER_GENERATION,
        "token_ids": Column(pl.List(pl.UInt32), "generated tokens, the stopping one included"),
        "text": Column(pl.String, "the continuation"),
        "n_tokens": Column(pl.UInt16, "number of generated tokens"),
        "stopped": Column(pl.Boolean, "ended by the stop text or EOS, not by length"),
    },
)
GEN_SUCCESS = Table(
    "gen_success",
    GENERATIONS.keys,
    {
        **_PER_GENERATION,
        "gen_success_1": Column(pl.UInt16, "tokens of the continuation that are the first lens token"),
        "gen_success_5": Column(pl.UInt16, "... that are among the first 5"),
        "gen_success_20": Column(pl.UInt16, "... that are among the first 20"),
    },
)
PERPLEXITY = Table(
    "perplexity",
    GENERATIONS.keys,
    {
        **_PER_GENERATION,
        "mean_nll": Column(pl.Float64, "mean loss per token in nats, given the prefix; perplexity is its exp", "the continuation is empty"),
        "n_scored": Column(pl.UInt16, "tokens scored"),
        "reason": _reason("mean_nll"),
    },
)
JUDGEMENTS = Table(
    "judge",
    GENERATIONS.keys,
    {
        **_PER_GENERATION,
        "concept_rating": Column(pl.UInt8, "0, 1 or 2: how much the text is about the feature's concept", "see reason"),
        "instruction_rating": Column(
            pl.UInt8, "0, 1 or 2: how well the text answers the instruction", "there is no instruction, or see reason"
        ),
        "fluency_rating": Column(pl.UInt8, "0, 1 or 2: how well-formed the text is", "see reason"),
        "judge_score": Column(pl.Float64, "harmonic mean of those that apply, 0 if any is 0", "one that applies is null"),
        "reason": _reason("judge_score"),
    },
)
STEPS = {
    table.name: table
    for table in (
        ACTIVATIONS,
        RECORDS,
        CONCEPTS,
        LOGIT_LENS,
        INPUT_SCORE,
        OUTPUT_SCORE,
        GENERATIONS,
        GEN_SUCCESS,
        PERPLEXITY,
        JUDGEMENTS,
    )
}

FEATURES = Table(
    "features",
    ("layer", "feature"),
    {
        **_PER_FEATURE,
        "density": RECORDS.columns["density"],
        "max_activation": RECORDS.columns["max_activation"],
        "n_records": RECORDS.columns["n_records"],
        "explanation": RECORDS.columns["explanation"],
        "concept": CONCEPTS.columns["concept"],
        "concept_share": CONCEPTS.columns["concept_share"],
        "lens_tokens": LOGIT_LENS.columns["tokens"],
        "lens_token_ids": LOGIT_LENS.columns["token_ids"],
        "input_score": INPUT_SCORE.columns["input_score"],
        "input_score_reason": _reason("input_score"),
        "output_score": OUTPUT_SCORE.columns["output_score"],
        "min_rank": OUTPUT_SCORE.columns["min_rank"],
        "max_prob": OUTPUT_SCORE.columns["max_prob"],
        "a_max": OUTPUT_SCORE.columns["a_max"],
    },
)
STEERING = Table(
    "steering",
    ("layer", "feature", "factor", "half"),
    {
        **_PER_FEATURE,
        "factor": _FACTOR,
        "half": Column(pl.UInt8, "half of the prefixes, 0 or 1: every other prefix of the list"),
        "n": Column(pl.UInt32, "generations"),
        "gen_success_1": Column(pl.Float64, "mean GenSuccess@1"),
        "gen_success_5": Column(pl.Float64, "mean GenSuccess@5"),
        "gen_success_20": Column(pl.Float64, "mean GenSuccess@20"),
        "log_perplexity": Column(pl.Float64, "mean over texts of mean_nll (nats per token)", "every continuation is empty"),
        "n_perplexity": Column(pl.UInt32, "texts with a perplexity"),
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
        **_PER_FEATURE,
        "rule": Column(pl.String, "p1 or capped"),
        "reported_on": Column(pl.String, "half of the prefixes reported on: 0, 1 (chosen on the other), or all (chosen on the same)"),
        "factor": Column(pl.String, "the chosen factor", "no factor can be chosen (no success, or the rule drops all): steering failed"),
        "at_grid_end": Column(pl.Boolean, "the smallest or largest positive factor was chosen", "factor is null"),
        "gen_success_20": Column(pl.Float64, "mean GenSuccess@20 on the half reported on; 0 when factor is null"),
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
        **_PER_FEATURE,
        "rule": BEST_FACTORS.columns["rule"],
        "input_score": INPUT_SCORE.columns["input_score"],
        "output_score": OUTPUT_SCORE.columns["output_score"],
        "concept": CONCEPTS.columns["concept"],
        "factors": Column(pl.List(pl.String), "chosen factor of each direction of the split; null where steering failed"),
        "n_at_grid_end": Column(pl.UInt8, "directions in which the choice is at a grid's end"),
        "gen_success_20": Column(pl.Float64, "mean of the directions' held-out GenSuccess@20"),
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
        "rule": BEST_FACTORS.columns["rule"],
        "measure": Column(pl.String, "gen_success_20, judge_score, concept_rating or fluency_rating (held-out)"),
        "layers": Column(pl.String, "all or late"),
        "threshold": Column(pl.Float64, "features with output score >= this are kept"),
        "n_features": Column(pl.UInt32, "features with the measure, before filtering"),
        "n_missing": Column(pl.UInt32, "features without it, left out"),
        "n_kept": Column(pl.UInt32, "features kept"),
        "mean": Column(pl.Float64, "mean of the measure over kept features", "nothing is kept"),
        "low": Column(pl.Float64, "lower end of its bootstrap interval over features", "fewer than 2 are kept"),
        "high": Column(pl.Float64, "upper end", "fewer than 2 are kept"),
        "removed_mean": Column(pl.Float64, "mean over removed features", "nothing is removed"),
        "removed_low": Column(pl.Float64, "lower end of its bootstrap interval over features", "fewer than 2 are removed"),
        "removed_high": Column(pl.Float64, "upper end", "fewer than 2 are removed"),
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
        "factor": _FACTOR,
        "n_features": Column(pl.UInt32, "features in the bin"),
        "gen_success_20": Column(pl.Float64, "mean over features of GenSuccess@20, all prefixes"),
        "gen_success_20_low": Column(pl.Float64, "bootstrap interval over features", "fewer than 2 features"),
        "gen_success_20_high": Column(pl.Float64, "bootstrap interval over features", "fewer than 2 features"),
        "perplexity": Column(pl.Float64, "geometric mean over features and texts", "every text is empty"),
        "perplexity_low": Column(pl.Float64, "bootstrap interval over features", "fewer than 2 features"),
        "perplexity_high": Column(pl.Float64, "bootstrap interval over features", "fewer than 2 features"),
    },
)
FEATURE_PMI = Table(
    "feature_pmi",
    ("layer", "feature"),
    {
        **_PER_FEATURE,
        "output_score": OUTPUT_SCORE.columns["output_score"],
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
        "mean": Column(pl.Float64, "mean PMI in nats", "nothing is kept"),
        "low": Column(pl.Float64, "bootstrap interval over features", "fewer than 2"),
        "high": Column(pl.Float64, "bootstrap interval over features", "fewer than 2"),
    },
)
EXAMPLES = Table(
    "examples",
    ("layer", "feature"),
    {
        **_PER_FEATURE,
        "input_score": INPUT_SCORE.columns["input_score"],
        "output_score": OUTPUT_SCORE.columns["output_score"],
        "concept": CONCEPTS.columns["concept"],
        "lens_tokens": LOGIT_LENS.columns["tokens"],
        "top_context": Column(pl.String, "the largest maximum of the records, in [brackets], and the tokens around it", "no records"),
        "factor": Column(pl.String, "factor of the text shown", "steering failed"),
        "prefix": Column(pl.String, "prefix of the text shown"),
        "unsteered": Column(pl.String, "continuation at factor 0"),
        "steered": Column(pl.String, "continuation at the chosen factor", "steering failed"),
    },
)
SUMMARIES = {
    table.name: table for table in (FEATURES, STEERING, BEST_FACTORS, OUTCOMES, SELECTION, FACTOR_BINS, FEATURE_PMI, PMI, EXAMPLES)
}


def validate(table: Table, frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """The frame with the schema's columns in order, or a TableError: columns, dtypes, nulls, NaN and duplicate keys are checked."""
    missing, unknown = set(table.columns) - set(frame.columns), set(frame.columns) - set(table.columns)
    if missing or unknown:
        raise TableError(
            f"{where}: table {table.name}: columns missing: {sorted(missing) or 'none'}; not in its schema: {sorted(unknown) or 'none'}"
        )
    frame = frame.select(list(table.columns))
    for name, column in table.columns.items():
        if frame.schema[name] != column.dtype:
            raise TableError(f"{where}: table {table.name}: column {name} has type {frame.schema[name]}, not {column.dtype}")
        _refuse_values(table, frame, name, where)
    repeated = frame.select(table.keys).is_duplicated()
    if repeated.any():
        raise TableError(f"{where}: table {table.name}: key given twice: {frame.select(table.keys).filter(repeated).row(0, named=True)}")
    return frame


def _refuse_values(table: Table, frame: pl.DataFrame, name: str, where: str) -> None:
    values = frame[name]
    bad = {}
    if table.columns[name].null_when is None:
        bad["null"] = values.is_null()
    if values.dtype.is_float():
        bad["NaN or infinite"] = ~values.fill_null(0.0).is_finite()
    for what, mask in bad.items():
        if mask.any():
            raise TableError(
                f"{where}: table {table.name}: column {name} is {what} at {frame.select(table.keys).filter(mask).row(0, named=True)}"
            )


def write_summary(table: Table, frame: pl.DataFrame, path: Path) -> None:
    """Write a summary table: validated, sorted by its keys, atomically."""
    checked = validate(table, frame, str(path)).sort(table.keys)
    write_atomically(path, lambda partial: checked.write_parquet(partial, compression="zstd"))


def read_summary(table: Table, path: Path) -> pl.DataFrame:
    """Read a summary table and check it against its schema."""
    return validate(table, pl.read_parquet(path), str(path))
