"""Can what steering with a feature does besides be foreseen without steering?"""

from collections.abc import Sequence

import polars as pl

from saesteer.run import Run
from saesteer.summaries.summary import Summary
from studies.questions.experiments import steers_with_labelled_features
from studies.questions.tables import SIDE_EFFECT_CORRELATIONS, SIDE_EFFECTS

PREDICTORS = {
    "decoder_cosine": "largest cosine with another decoder row",
    "decoder_cosine_10": "mean of the ten largest",
    "co_activation": "co-activation",
    "density": "density",
    "lens_entropy": "entropy of the logit lens",
}
"""Column -> what it is called: what is known of a feature without steering."""
EFFECTS = {
    "score_sd": "spread over prompts",
    "other_largest": "other topics, largest",
    "other_mean": "other topics, mean",
    "loss_rise": "loss",
    "judge_score": "judge score",
}
"""The same of what is measured on texts that chose nothing: side effects, and the judge score, which a filter must not cost."""


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from studies.questions.side_effects import side_effect_correlations, side_effects

    table = side_effects(run)
    return {SIDE_EFFECTS.name: table, SIDE_EFFECT_CORRELATIONS.name: side_effect_correlations(table, run.sweep.selection)}


SUMMARY = Summary((SIDE_EFFECTS, SIDE_EFFECT_CORRELATIONS), steers_with_labelled_features, compute, runs_model=True)
