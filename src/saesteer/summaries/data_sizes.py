"""How much data quantities need that come from records or from labelled texts."""

from collections.abc import Sequence

import polars as pl

from saesteer.core.tables import ACTIVATIONS, DATA_SIZES, FEATURES, LOGIT_LENS, RECORDS, STEERING
from saesteer.run import Run
from saesteer.summaries.summary import Summary, steers_every_feature


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.data_sizes import by_records, by_texts, data_sizes, token_concepts
    from saesteer.analysis.labelled_texts import texts_by_topic

    labelled, topics = pl.read_parquet(run.file("texts")), run.topics()
    features, steering = run.summary(FEATURES), run.summary(STEERING)
    activations = {layer: run.rows(ACTIVATIONS, [layer]) for layer in run.experiment.layers}
    records, lens, convention = run.rows(RECORDS), run.rows(LOGIT_LENS), run.experiment.input_score.tokens
    of_records = by_records(records, lens, token_concepts(labelled, topics), features, run.tokens(), convention)
    values = pl.concat([of_records, by_texts(activations, texts_by_topic(labelled, topics), features)])
    return {DATA_SIZES.name: data_sizes(values, features, steering, run.sweep.selection)}


SUMMARY = Summary((DATA_SIZES,), steers_every_feature, compute)
