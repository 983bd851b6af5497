"""The feature set: which features of each layer an experiment covers. Read at parse time, needs no model and no network."""

import numpy as np

from saesteer.counter_rng import uniforms
from saesteer.settings import AllFeatures, Experiment, ExplicitFeatures


def resolve(experiment: Experiment) -> dict[int, tuple[int, ...]]:
    """Layer -> its features, for every layer of the experiment."""
    return {layer: features_of(experiment, layer) for layer in experiment.layers}


def features_of(experiment: Experiment, layer: int) -> tuple[int, ...]:
    """A layer's features, ascending.

    A sampled set is nested: features are ranked by a random number of their own, so the first 100 of 101 are the 100.
    """
    chosen = experiment.features
    if isinstance(chosen, AllFeatures):
        return tuple(range(experiment.saes.n_features))
    if isinstance(chosen, ExplicitFeatures):
        return tuple(sorted(chosen.features.get(layer, ())))
    numbers = uniforms(chosen.seed, layer, np.arange(experiment.saes.n_features), step=0)
    return tuple(sorted(int(feature) for feature in np.argsort(numbers, kind="stable")[: chosen.n_per_layer]))
