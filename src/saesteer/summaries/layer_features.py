"""The table of features, a file a layer: that of an experiment that scores every feature can be shared layer by layer."""

from saesteer.core.tables import FEATURES
from saesteer.settings import Experiment, Sweep
from saesteer.summaries.features_table import compute
from saesteer.summaries.summary import FILE_OF_LAYER, Summary


def exists(experiment: Experiment) -> bool:
    """A sweep has the one table of all layers only."""
    return not isinstance(experiment, Sweep)


SUMMARY = Summary((FEATURES,), exists, compute, FILE_OF_LAYER)
