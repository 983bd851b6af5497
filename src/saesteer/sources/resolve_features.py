"""Feature sets that need the network, resolved into a list that git keeps: `saesteer features EXPERIMENT`."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from saesteer.settings import Addresses, Experiment, ExplainedFeatures, PublishedFeatures, SettingsError
from saesteer.sources.download import fetch_published
from saesteer.sources.features import write_list
from saesteer.sources.http import COMMAND, FetchError, Policy, Refusal, open_client
from saesteer.sources.neuronpedia.api import ADVICE, Match, nearest_explanations
from saesteer.sources.neuronpedia.exports import explained_features, list_exports
from saesteer.sources.neuronpedia.sources import Source, sources_of
from saesteer.sources.published import feature_list, published_file


def resolve_features(experiment: Experiment, addresses: Addresses, downloads: Path, policy: Policy = COMMAND) -> dict[int, tuple[int, ...]]:
    """Find the experiment's features and write them to `features.list`; gives layer -> features."""
    chosen, answer = experiment.features, None
    if isinstance(chosen, PublishedFeatures):
        file = published_file(chosen.key)
        listed = feature_list(fetch_published(chosen.key, addresses.github, downloads, policy))
        if absent := sorted(set(experiment.layers) - set(listed)):
            raise SettingsError(f"{chosen.key} has no layer {absent[0]}: drop it from `layers`, or choose another feature set")
        features = {layer: listed[layer] for layer in experiment.layers}
        origin = f"{file.repo}@{file.commit}/{file.path}, SHA-256 {file.sha256}"
    elif isinstance(chosen, ExplainedFeatures):
        answer, origin = _explained(experiment, chosen, addresses, downloads, policy)
        features = {layer: tuple(sorted(explained)) for layer, explained in answer.items()}
    else:
        raise SettingsError(f"features of kind {chosen.kind} need no list: the workflow resolves them by itself")
    if not any(features.values()):
        raise SettingsError(f"{origin}: no feature of layers {', '.join(map(str, experiment.layers))} matches; nothing was written")
    write_list(chosen.list, chosen, origin, features, answer)
    return features


def _explained(
    experiment: Experiment, chosen: ExplainedFeatures, addresses: Addresses, downloads: Path, policy: Policy
) -> tuple[dict[int, dict[int, Any]], str]:
    """Layer -> feature -> the explanation that it was taken for (of a query with its similarity); and where that comes from."""
    sources = sources_of(experiment, experiment.layers)
    names = ", ".join(map(str, sources.values()))
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


def explanations(addresses: Addresses, source: Source, downloads: Path, policy: Policy) -> dict[int, list[str]]:
    """Feature -> its explanations, of every feature that has one, from the bulk exports, kept below `downloads`; all or an error."""

    async def read() -> tuple[dict[int, list[str]], list[str]]:
        async with open_client(policy) as client:
            exports = await list_exports(client, addresses.neuronpedia_exports, source, downloads)
            return await explained_features(exports, None)

    try:
        explained, problems = asyncio.run(read())
    except FetchError as error:
        raise FetchError(f"explanations of {source}: {error}") from error
    if problems:
        raise FetchError(f"explanations of {source}: {'; '.join(problems)}; what was downloaded is kept: try again")
    return dict(sorted(explained.items()))


def nearest_features(addresses: Addresses, source: Source, query: str, n: int, policy: Policy) -> list[Match]:
    """The `n` features of a source whose explanations are nearest to a query, each with the nearest, as Neuronpedia's search has them."""

    async def search() -> list[Match]:
        nearest: dict[int, Match] = {}
        async with open_client(policy) as client, aclosing(nearest_explanations(client, addresses.neuronpedia, source, query)) as matches:
            async for match in matches:
                nearest.setdefault(match.feature, match)
                if len(nearest) == n:
                    break
        return list(nearest.values())

    try:
        return asyncio.run(search())
    except FetchError as error:
        advice = ADVICE.get(error.status, "") if isinstance(error, Refusal) and error.status != 404 else ""
        raise FetchError(f"search of {source}: {error}{advice}") from error


def matching_features(explanations: Mapping[int, Sequence[str]], pattern: str) -> dict[int, str]:
    """Feature -> the first of its explanations that the regular expression is found in, upper and lower case alike, ascending."""
    try:
        expression = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise SettingsError(f"features: pattern {pattern!r} is no regular expression: {error}") from error
    first = {feature: next(filter(expression.search, texts), None) for feature, texts in sorted(explanations.items())}
    return {feature: text for feature, text in first.items() if text is not None}
