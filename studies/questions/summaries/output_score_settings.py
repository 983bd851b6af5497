"""The output score of every feature at other prompts and factors."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import FEATURES
from saesteer.run import Run
from saesteer.summaries.summary import FILE_OF_GROUP, Summary
from studies.questions.experiments import steers_every_feature
from studies.questions.tables import OUTPUT_SCORE_SETTINGS


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    import torch

    from saesteer.engine.output_score import output_scores_from_file
    from studies.questions.setting_agreement import score_settings

    lm, features = run.model(), run.summary(FEATURES)
    frames = [pl.DataFrame(schema=OUTPUT_SCORE_SETTINGS.schema)]
    for layer in layers:
        rows = features.filter(pl.col("layer") == layer).sort("feature")
        numbers, ids = rows["feature"].to_list(), torch.tensor(rows["top_logit_lens_token_ids"].to_list())
        for prompt, factor in score_settings(run.experiment.output_score, list(run.prompts().values())):
            for scores in output_scores_from_file(lm, run.sae_file(layer), layer, numbers, ids, prompt, float(factor)):
                label = {"layer": pl.lit(layer, pl.UInt16), "prompt": pl.lit(prompt), "factor": pl.lit(factor)}
                frames.append(scores.with_columns(**label).select(list(OUTPUT_SCORE_SETTINGS.columns)))
    return {OUTPUT_SCORE_SETTINGS.name: pl.concat(frames)}


SUMMARY = Summary((OUTPUT_SCORE_SETTINGS,), steers_every_feature, compute, FILE_OF_GROUP, runs_model=True)
