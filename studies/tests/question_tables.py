"""Plausible tables of what the papers leave open, of the world of synthetic_tables."""

from itertools import product

import numpy as np
import polars as pl
from synthetic_tables import FACTORS, PREFIXES, main_tables, selection_settings

from saesteer.settings import BestFactorSettings, OutputScoreSettings, SelectionSettings
from studies.questions.choice_rules import choice_rules, feature_rankings, with_quantities
from studies.questions.feature_sets import BY_ACTIVATION, GREEDY
from studies.questions.grid_ends import grid_ends
from studies.questions.headline_samples import headline_samples
from studies.questions.predictor import predictions, predictions_from
from studies.questions.quantity_correlations import quantity_correlations
from studies.questions.setting_agreement import setting_agreement
from studies.questions.side_effects import side_effect_correlations
from studies.questions.summaries.attributes import RULES as ATTRIBUTE_RULES
from studies.questions.summaries.data_sizes import data_sizes
from studies.questions.summaries.suppression import OF_A_FEATURE, WAYS
from studies.questions.tables import (
    ATTRIBUTES,
    CONCEPT_PAIRS,
    FEATURE_SETS,
    OUTPUT_SCORE_SETTINGS,
    QUANTITIES,
    RECOMMENDATIONS,
    SIDE_EFFECTS,
    SUPPRESSION,
)
from studies.questions.threshold_transfer import threshold_curves, threshold_transfer


def synthetic_quantities(features: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """A QUANTITIES table; those that need a concept are null where there is none."""
    rng = np.random.default_rng(seed + 6)
    needs = [name for name, column in QUANTITIES.columns.items() if column.null_when]
    made = features.select("layer", "feature", "concept").with_columns(
        pl.Series(name, rng.normal(size=features.height)) for name in QUANTITIES.columns if name not in ("layer", "feature")
    )
    known = pl.col("concept").is_not_null()
    return made.with_columns(pl.when(known).then(name).alias(name) for name in needs).drop("concept")


def synthetic_output_scores(features: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """An OUTPUT_SCORE_SETTINGS table: scores near the features' own at three settings."""
    rng = np.random.default_rng(seed + 7)
    own = OutputScoreSettings()
    made = [
        features.select(
            "layer",
            "feature",
            "output_score",
            prompt=pl.lit(prompt),
            factor=pl.lit(factor),
            off=pl.Series(rng.lognormal(0, spread, features.height)),
        )
        for prompt, factor, spread in ((own.prompt, str(own.factor), 0.0), (own.prompt, "2", 0.5), (PREFIXES[0], str(own.factor), 0.2))
    ]
    scores = pl.concat(made).with_columns((pl.col("output_score") * pl.col("off")).clip(0, 1))
    return scores.select(list(OUTPUT_SCORE_SETTINGS.columns))


def synthetic_sizes(features: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Input scores and F1 from fewer data (rule, n, layer, feature, value): the less, the more noise."""
    rng = np.random.default_rng(seed + 8)
    made = [
        features.drop_nulls(["input_score", "concept"]).select(
            pl.lit(rule).alias("rule"), pl.lit(n, pl.UInt32).alias("n"), "layer", "feature", value=pl.col("input_score")
        )
        for rule, sizes in (("input_score", (5, 20, 100)), ("label_f1", (2, 8, 32)))
        for n in sizes
    ]
    return pl.concat(made).with_columns(value=pl.col("value") + pl.Series(rng.normal(size=sum(map(len, made)))) / pl.col("n"))


def synthetic_side_effects(features: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """A SIDE_EFFECTS table of labelled features, in which nothing foresees anything."""
    rng = np.random.default_rng(seed + 12)
    rows = features.drop_nulls("concept").select("layer", "feature", "concept", n=pl.lit(10))
    made = [pl.Series(name, rng.normal(size=rows.height)) for name in SIDE_EFFECTS.columns if name not in rows.columns]
    return rows.with_columns(made).select(list(SIDE_EFFECTS.columns)).cast(pl.Schema(SIDE_EFFECTS.schema))


RECOMMENDED = (("joy", "use", 1.5, 1.25), ("law", "use", 1.5, 0.75), ("sea", "try it", 1.0, 1.5), ("war", "don't", 0.25, 0.125))
"""Concept, verdict, printed score, score on fresh prompts."""


def question_tables(
    features: pl.DataFrame, steering: pl.DataFrame, results: pl.DataFrame, settings: SelectionSettings, seed: int
) -> dict[str, pl.DataFrame]:
    """The tables of what the papers leave open."""
    known = with_quantities(features, synthetic_quantities(features, seed))
    scores, choice, own = synthetic_output_scores(features, seed), BestFactorSettings(), OutputScoreSettings()
    predicted, weights = predictions(known, steering, settings)
    if not weights.is_empty():
        predicted = pl.concat([predicted, predictions_from(weights, "another", known, steering, settings)]).sort("layer", "trained_on")
    return {
        "choice_rules": choice_rules(known, steering, results, settings),
        "feature_rankings": feature_rankings(known, steering, settings),
        "quantity_correlations": quantity_correlations(known, steering, results, choice.rule, settings),
        "headline_samples": headline_samples(results, choice.rule, settings),
        "threshold_curves": threshold_curves(results, choice.rule, settings),
        "threshold_transfer": threshold_transfer(results, choice.rule, settings),
        "grid_ends": grid_ends(steering, choice, settings),
        "setting_agreement": setting_agreement(scores, features, steering, own, settings),
        "data_sizes": data_sizes(synthetic_sizes(features, seed), features, steering, settings),
        "predictions": predicted,
        "predictor_weights": weights,
        "recommendations": pl.DataFrame(
            [
                {"layer": 1, "concept": concept, "n_candidates": 4, "verdict": verdict, "feature": 3, "factor": "1", "n": 20}
                | {"score": score, "score_low": score - 0.25, "score_high": score + 0.25, "fresh": fresh, "best": fresh + 0.25}
                for concept, verdict, score, fresh in RECOMMENDED
            ],
            RECOMMENDATIONS.schema,
        ),
        "feature_sets": pl.DataFrame(
            [
                {"layer": 1, "concept": concept, "rule": rule, "size": size, "n_pool": 2, "features": "3+8"[: 2 * size - 1]}
                | {"factor": "1", "score": score + 0.25 * size}
                for (concept, score), rule, size in product((("sea", 0.5), ("war", 1.0)), (GREEDY, BY_ACTIVATION), (1, 2))
            ],
            FEATURE_SETS.schema,
        ),
        "side_effect_correlations": side_effect_correlations(synthetic_side_effects(features, seed), settings),
        "suppression": pl.DataFrame(
            [
                {"layer": 1, "concept": concept, "way": way, "feature": 3, "factor": "-1", "n": 40, "concept_rating_before": 1.5}
                | {"fluency_rating_before": 1.75, "score_before": 0.5, "concept_rating": 0.5, "fluency_rating": 1.5, "score": 1.0}
                | {"concept_rating_control": 1.25 if way in OF_A_FEATURE else None}
                for concept, way in product(("sea", "war"), WAYS)
            ],
            SUPPRESSION.schema,
        ),
        "attributes": pl.DataFrame(
            [
                {"layer": 1, "attribute": attribute, "rule": rule, "n_having": 90, "n": 40, "factor": "1", "share": share, "score": share}
                for (attribute, share), rule in product((("past", 0.25), ("question", 0.5)), ATTRIBUTE_RULES)
            ],
            ATTRIBUTES.schema,
        ),
        "concept_pairs": pl.DataFrame([(1, "sea", "war", 1.0, 0.5), (1, "war", "sea", 1.5, 1.25)], CONCEPT_PAIRS.schema, orient="row"),
    }


def synthetic_tables(
    n_layers: int = 8, n_features: int = 30, factors: tuple[str, ...] = FACTORS, seed: int = 0, **changes: object
) -> dict[str, pl.DataFrame]:
    """Every table of the main job and of what the papers leave open; `changes` are selection settings."""
    tables, settings = main_tables(n_layers, n_features, factors, seed, **changes), selection_settings(**changes)
    return tables | question_tables(tables["features"], tables["steering"], tables["outcomes"], settings, seed)
