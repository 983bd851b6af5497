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
    PERSISTENCE,
    STEERING_PROMPTS,
)
from saesteer.core.tables.questions import (
    APPROXIMATOR_SIZES,
    CHOICE_RULES,
    DATA_SIZES,
    EFFECT_LAYERS,
    EFFECT_MULTIPLES,
    EFFECTS_AT_LATER_LAYERS,
    EFFECTS_AT_MULTIPLES,
    FEATURE_RANKINGS,
    GRID_ENDS,
    HEADLINE_SAMPLES,
    JUDGE_ERROR,
    OUTPUT_SCORE_SETTINGS,
    PREDICTIONS,
    PREDICTOR_WEIGHTS,
    PSEUDO_INVERSES,
    QUANTITIES,
    QUANTITY_CORRELATIONS,
    QUESTION_SUMMARIES,
    RECOMMENDATIONS,
    SETTING_AGREEMENT,
    THRESHOLD_CURVES,
    THRESHOLD_TRANSFER,
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
