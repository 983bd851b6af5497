"""Columns, dtypes, units and keys of every table on disk: one schema a table, validated on write and on read.

A step table (STEPS) has one row a key, so "is it computed?" is an anti-join on the key columns; what belongs to a key in any
number (records of a feature, tokens of a generation) is a list in that row. A summary table is computed afresh.
A column is nullable only where it says when it is null.
"""

from saesteer.core.tables.methods import (
    ASKED_CONCEPTS,
    CONCEPT_TEXTS,
    DAMAGE,
    EFFECTS,
    FITS,
    METHOD_DAMAGE,
    METHOD_STEPS,
    METHOD_SUMMARIES,
    STEERING_PROMPTS,
)
from saesteer.core.tables.schema import Column, Table, TableError, by_name, read_summary, validate, write_summary
from saesteer.core.tables.steps import (
    ACTIVATIONS,
    CONCEPTS,
    GEN_SUCCESS,
    GENERATIONS,
    INPUT_SCORE,
    JUDGEMENTS,
    LOGIT_LENS,
    OUTPUT_SCORE,
    PERPLEXITY,
    RECORD,
    RECORDS,
    STEPS,
    as_generations,
    of_features,
    of_fits,
)
from saesteer.core.tables.summaries import (
    BEST_FACTORS,
    EXAMPLES,
    FACTOR_BINS,
    FEATURE_PMI,
    FEATURES,
    OUTCOMES,
    PMI,
    SELECTION,
    STEERING,
)
