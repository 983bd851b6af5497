"""The feature set: which features of each layer an experiment covers. Read at parse time, needs no model and no network."""

import functools

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
    ranking = _ranking(chosen.seed, layer, experiment.saes.n_features)
    return tuple(sorted(ranking[: chosen.n_per_layer].tolist()))


@functools.cache
def _ranking(seed: int, layer: int, n_features: int) -> np.ndarray:
    """A layer's features in the order of the draw; kept, since every step's job asks for it again."""
    ranking = np.argsort(uniforms(seed, layer, np.arange(n_features), step=0), kind="stable")
    ranking.flags.writeable = False
    return ranking
