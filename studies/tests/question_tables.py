"""Plausible tables of what the papers leave open, of the world of synthetic_tables."""

import numpy as np
import polars as pl
from synthetic_tables import FACTORS, PREFIXES, main_tables, selection_settings

from saesteer.settings import BestFactorSettings, OutputScoreSettings, SelectionSettings
from studies.questions.choice_rules import choice_rules, feature_rankings
from studies.questions.grid_ends import grid_ends
from studies.questions.headline_samples import headline_samples
from studies.questions.quantity_correlations import quantity_correlations
from studies.questions.setting_agreement import setting_agreement
from studies.questions.summaries.data_sizes import data_sizes
from studies.questions.tables import OUTPUT_SCORE_SETTINGS, RECOMMENDATIONS
from studies.questions.threshold_transfer import threshold_transfer


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
    """Input scores from fewer examples (n, layer, feature, value): the fewer, the more noise."""
    rng = np.random.default_rng(seed + 8)
    scored = features.drop_nulls(["input_score", "concept"])
    made = [scored.select(pl.lit(n, pl.UInt32).alias("n"), "layer", "feature", value=pl.col("input_score")) for n in (5, 20, 100)]
    return pl.concat(made).with_columns(value=pl.col("value") + pl.Series(rng.normal(size=3 * scored.height)) / pl.col("n"))


RECOMMENDED = (("joy", "use", 1.5, 1.25), ("law", "use", 1.5, 0.75), ("sea", "try it", 1.0, 1.5), ("war", "don't", 0.25, 0.125))
"""Concept, verdict, printed score, score on fresh prompts."""


def question_tables(
    features: pl.DataFrame, steering: pl.DataFrame, results: pl.DataFrame, settings: SelectionSettings, seed: int
) -> dict[str, pl.DataFrame]:
    """The tables of what the papers leave open."""
    scores, choice, own = synthetic_output_scores(features, seed), BestFactorSettings(), OutputScoreSettings()
    return {
        "choice_rules": choice_rules(features, steering, results, settings),
        "feature_rankings": feature_rankings(features, steering, settings),
        "quantity_correlations": quantity_correlations(features, steering, results, choice.rule, settings),
        "headline_samples": headline_samples(results, choice.rule, settings),
        "threshold_transfer": threshold_transfer(results, choice.rule, settings),
        "grid_ends": grid_ends(steering, choice, settings),
        "setting_agreement": setting_agreement(scores, own, settings),
        "data_sizes": data_sizes(synthetic_sizes(features, seed), features, settings),
        "recommendations": pl.DataFrame(
            [
                {"layer": 1, "concept": concept, "n_candidates": 4, "verdict": verdict, "feature": 3, "factor": "1", "n": 20}
                | {"score": score, "score_low": score - 0.25, "score_high": score + 0.25, "fresh": fresh, "best": fresh + 0.25}
                for concept, verdict, score, fresh in RECOMMENDED
            ],
            RECOMMENDATIONS.schema,
        ),
    }


def synthetic_tables(
    n_layers: int = 8, n_features: int = 30, factors: tuple[str, ...] = FACTORS, seed: int = 0, **changes: object
) -> dict[str, pl.DataFrame]:
    """Every table of the main job and of what the papers leave open; `changes` are selection settings."""
    tables, settings = main_tables(n_layers, n_features, factors, seed, **changes), selection_settings(**changes)
    return tables | question_tables(tables["features"], tables["steering"], tables["outcomes"], settings, seed)
