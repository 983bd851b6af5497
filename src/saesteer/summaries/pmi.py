"""PMI of each feature's most generated tokens with its top logit-lens tokens, and its mean by threshold."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from saesteer.core.tables import FEATURE_PMI, FEATURES, GENERATIONS, OUTCOMES, PMI, of_features
from saesteer.run import Run
from saesteer.settings import Experiment, Sweep
from saesteer.sources.pins import pmi_file
from saesteer.summaries.summary import Summary


def exists(experiment: Experiment) -> bool:
    """Whether there are texts whose co-occurrences can be counted."""
    return isinstance(experiment, Sweep) and pmi_file(experiment, Path()) is not None


def compute(run: Run, layers: Sequence[int]) -> dict[str, pl.DataFrame]:
    from saesteer.analysis.pmi import feature_pmi, pmi_by_threshold
    from saesteer.sources.corpus import pmi_texts

    texts_file = pmi_file(run.sweep, run.downloads)
    assert texts_file is not None
    experiment, outcomes, features = run.sweep, run.summary(OUTCOMES), run.summary(FEATURES)
    texts = pmi_texts(texts_file, run.model_folder())
    by_feature = feature_pmi(of_features(run.rows(GENERATIONS)), outcomes, features, texts, experiment.best_factor.rule)
    return {FEATURE_PMI.name: by_feature, PMI.name: pmi_by_threshold(by_feature, experiment.selection)}


SUMMARY = Summary((FEATURE_PMI, PMI), exists, compute)
