"""What steering every feature says about choosing one: the tables behind the answers to what the papers leave open."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import FEATURES, OUTCOMES, STEERING
from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import OPEN_QUESTIONS, OUTPUT_SCORE_SETTINGS


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.choice_rules import choice_rules, feature_rankings
    from studies.questions.grid_ends import grid_ends
    from studies.questions.headline_samples import headline_samples
    from studies.questions.quantity_correlations import quantity_correlations
    from studies.questions.setting_agreement import setting_agreement
    from studies.questions.threshold_transfer import threshold_transfer

    features, steering, outcomes = (run.summary(table) for table in (FEATURES, STEERING, OUTCOMES))
    elsewhere, settings, rule = run.summary_by_group(OUTPUT_SCORE_SETTINGS), run.sweep.selection, run.sweep.best_factor.rule
    return {
        "choice_rules": choice_rules(features, steering, outcomes, settings),
        "feature_rankings": feature_rankings(features, steering, settings),
        "quantity_correlations": quantity_correlations(features, steering, outcomes, rule, settings),
        "headline_samples": headline_samples(outcomes, rule, settings),
        "threshold_transfer": threshold_transfer(outcomes, rule, settings),
        "grid_ends": grid_ends(steering, run.sweep.best_factor, settings),
        "setting_agreement": setting_agreement(elsewhere, run.experiment.output_score, settings),
    }


SUMMARY = Summary(OPEN_QUESTIONS, steers_every_feature, compute)
