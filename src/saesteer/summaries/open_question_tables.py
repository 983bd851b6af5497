"""What steering every feature says about choosing one: the tables behind the figures of what the papers leave open."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import FEATURES, OUTCOMES, OUTPUT_SCORE_SETTINGS, PREDICTOR_WEIGHTS, QUANTITIES, QUESTION_SUMMARIES, STEERING
from saesteer.run import Run
from saesteer.summaries.summary import Summary, steers_every_feature


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.choice_rules import choice_rules, feature_rankings, with_quantities
    from saesteer.analysis.grid_ends import grid_ends
    from saesteer.analysis.headline_samples import headline_samples
    from saesteer.analysis.predictor import predictions, predictions_from
    from saesteer.analysis.quantity_correlations import quantity_correlations
    from saesteer.analysis.setting_agreement import setting_agreement
    from saesteer.analysis.threshold_transfer import threshold_curves, threshold_transfer

    features, steering, outcomes = (run.summary(table) for table in (FEATURES, STEERING, OUTCOMES))
    elsewhere, settings, rule = run.summary_by_group(OUTPUT_SCORE_SETTINGS), run.sweep.selection, run.sweep.best_factor.rule
    quantities = with_quantities(features, run.summary_by_group(QUANTITIES))
    predicted, weights = predictions(quantities, steering, settings)
    if settings.predictor:
        learnt = pl.read_csv(settings.predictor, schema=PREDICTOR_WEIGHTS.schema)
        from_there = predictions_from(learnt, settings.predictor.parent.name, quantities, steering, settings)
        predicted = pl.concat([predicted, from_there]).sort("layer", "trained_on")
    return {
        "choice_rules": choice_rules(quantities, steering, outcomes, settings),
        "feature_rankings": feature_rankings(quantities, steering, settings),
        "quantity_correlations": quantity_correlations(quantities, steering, outcomes, rule, settings),
        "headline_samples": headline_samples(outcomes, rule, settings),
        "threshold_curves": threshold_curves(outcomes, rule, settings),
        "threshold_transfer": threshold_transfer(outcomes, rule, settings),
        "grid_ends": grid_ends(steering, run.sweep.best_factor, settings),
        "setting_agreement": setting_agreement(elsewhere, features, steering, outcomes, run.experiment.output_score, rule, settings),
        "predictions": predicted,
        "predictor_weights": weights,
    }


_BY_OTHER_RULES = ("data_sizes", "recommendations", "judge_error")
_TABLES = tuple(table for name, table in QUESTION_SUMMARIES.items() if name not in _BY_OTHER_RULES)
SUMMARY = Summary(_TABLES, steers_every_feature, compute)
