"""What `saesteer recommend` would say of each concept, against the best that could be said."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import FEATURES, JUDGEMENTS, RECOMMENDATIONS, of_features
from saesteer.run import Run
from saesteer.summaries.summary import Summary, steers_every_feature


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.recommendation import N_PER_LAYER, recommendations

    place = {prompt: number for number, prompt in enumerate(run.prompts())}
    texts = of_features(run.rows(JUDGEMENTS, run.layers))
    texts = texts.sort(pl.col("prefix_id").replace_strict(place, return_dtype=pl.Int64), maintain_order=True)
    return {RECOMMENDATIONS.name: recommendations(run.summary(FEATURES), texts, N_PER_LAYER, run.sweep.selection)}


SUMMARY = Summary((RECOMMENDATIONS,), steers_every_feature, compute)
