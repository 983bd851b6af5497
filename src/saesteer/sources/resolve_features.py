"""Feature sets that need the network, resolved into a list that git keeps: `saesteer features EXPERIMENT`."""

import logging
from pathlib import Path
from typing import Any

from saesteer.settings import Addresses, Experiment, ExplainedFeatures, PublishedFeatures, SettingsError
from saesteer.sources.download import fetch_published
from saesteer.sources.features import write_list
from saesteer.sources.http import COMMAND, Policy
from saesteer.sources.published import feature_list, published_file

log = logging.getLogger(__name__)


def resolve_features(experiment: Experiment, addresses: Addresses, downloads: Path, policy: Policy = COMMAND) -> dict[int, tuple[int, ...]]:
    """Find the experiment's features and write them to `features.list`; gives layer -> features."""
    chosen, answer = experiment.features, None
    if isinstance(chosen, PublishedFeatures):
        features, source = _published(experiment, chosen, addresses, downloads, policy)
    elif isinstance(chosen, ExplainedFeatures):
        answer, source = _explained(experiment, chosen, addresses, downloads, policy)
        features = {layer: tuple(sorted(taken)) for layer, taken in answer.items()}
    else:
        raise SettingsError(f"features of kind {chosen.kind} need no list: the workflow resolves them by itself")
    if not any(features.values()):
        raise SettingsError(f"{source}: no feature of layers {', '.join(map(str, experiment.layers))} matches; nothing was written")
    write_list(chosen.list, chosen, source, features, answer)
    return features


def _published(
    experiment: Experiment, chosen: PublishedFeatures, addresses: Addresses, downloads: Path, policy: Policy
) -> tuple[dict[int, tuple[int, ...]], str]:
    file = published_file(chosen.key)
    listed = feature_list(fetch_published(chosen.key, addresses.github, downloads, policy))
    if absent := sorted(set(experiment.layers) - set(listed)):
        raise SettingsError(f"{chosen.key} has no layer {absent[0]}: drop it from `layers`, or choose another feature set")
    return {layer: listed[layer] for layer in experiment.layers}, f"{file.repo}@{file.commit}/{file.path}, SHA-256 {file.sha256}"


def _explained(
    experiment: Experiment, chosen: ExplainedFeatures, addresses: Addresses, downloads: Path, policy: Policy
) -> tuple[dict[int, dict[int, Any]], str]:
    """Layer -> feature -> the explanation that it was taken for (of a query with its similarity)."""
    from saesteer.sources.neuronpedia.explanations import explanations, matching_features, nearest_features
    from saesteer.sources.neuronpedia.sources import sources_of

    sources = sources_of(experiment, experiment.layers)
    names = ", ".join(f"{source.model}/{source.source}" for source in sources.values())
    if chosen.pattern is not None:
        explained = {layer: explanations(addresses, source, downloads, policy) for layer, source in sources.items()}
        matching = {layer: matching_features(texts, chosen.pattern) for layer, texts in explained.items()}
        return matching, f"explanations of {names} on Neuronpedia"
    n = int(chosen.n_per_layer or 0)
    nearest = {layer: nearest_features(addresses, source, str(chosen.query), n, policy) for layer, source in sources.items()}
    answer = {
        layer: {match.feature: {"explanation": match.explanation, "similarity": match.similarity} for match in matches}
        for layer, matches in nearest.items()
    }
    return answer, f"search of the explanations of {names} on Neuronpedia"
