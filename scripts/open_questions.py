"""What steering every feature says about choosing one: the tables behind the figures of what the papers leave open."""

import polars as pl
from common import open_job

from saesteer.analysis.choice_rules import choice_rules, feature_rankings, with_quantities
from saesteer.analysis.grid_ends import grid_ends
from saesteer.analysis.headline_samples import headline_samples
from saesteer.analysis.predictor import predictions, predictions_from
from saesteer.analysis.quantity_correlations import quantity_correlations
from saesteer.analysis.setting_agreement import setting_agreement
from saesteer.analysis.threshold_transfer import threshold_curves, threshold_transfer
from saesteer.core.tables import (
    FEATURES,
    OUTCOMES,
    OUTPUT_SCORE_SETTINGS,
    PREDICTOR_WEIGHTS,
    QUANTITIES,
    QUESTION_SUMMARIES,
    STEERING,
    read_summary,
    write_summary,
)

job = open_job(snakemake)
features, steering, outcomes = (read_summary(table, job.input(table.name)) for table in (FEATURES, STEERING, OUTCOMES))
quantities, elsewhere = (
    pl.concat([read_summary(table, path) for path in job.inputs[name]])
    for name, table in (("quantities", QUANTITIES), ("settings", OUTPUT_SCORE_SETTINGS))
)
settings, choice, own = job.experiment.selection, job.experiment.best_factor, job.experiment.output_score
known = with_quantities(features, quantities)
predicted, weights = predictions(known, steering, settings)
if settings.predictor:
    learnt = pl.read_csv(job.input("predictor"), schema=PREDICTOR_WEIGHTS.schema)
    from_there = predictions_from(learnt, settings.predictor.parent.name, known, steering, settings)
    predicted = pl.concat([predicted, from_there]).sort("layer", "trained_on")
made = {
    "choice_rules": choice_rules(known, steering, outcomes, settings),
    "feature_rankings": feature_rankings(known, steering, settings),
    "quantity_correlations": quantity_correlations(known, steering, outcomes, choice.rule, settings),
    "headline_samples": headline_samples(outcomes, choice.rule, settings),
    "threshold_curves": threshold_curves(outcomes, choice.rule, settings),
    "threshold_transfer": threshold_transfer(outcomes, choice.rule, settings),
    "grid_ends": grid_ends(steering, choice, settings),
    "setting_agreement": setting_agreement(elsewhere, features, steering, outcomes, own, choice.rule, settings),
    "predictions": predicted,
    "predictor_weights": weights,
}
for name, frame in made.items():
    write_summary(QUESTION_SUMMARIES[name], frame, job.outputs[name])
