"""A source's explanations: what Neuronpedia says each of its features means."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from saesteer.settings import Addresses, SettingsError
from saesteer.sources.http import FetchError, Policy, open_client
from saesteer.sources.neuronpedia.bulk import explained_features
from saesteer.sources.neuronpedia.exports import list_exports
from saesteer.sources.neuronpedia.outcomes import IncompleteDownload
from saesteer.sources.neuronpedia.sources import Source


def explanations(
    addresses: Addresses,
    source: Source,
    downloads: Path,
    policy: Policy = Policy(),  # noqa: B008 (frozen)
) -> dict[int, list[str]]:
    """Feature -> its explanations, of every feature that has one, from the bulk exports, kept below `downloads`; all or an error."""
    return asyncio.run(_explanations(addresses, source, downloads, policy))


async def _explanations(addresses: Addresses, source: Source, downloads: Path, policy: Policy) -> dict[int, list[str]]:
    async with open_client(policy) as client:
        try:
            exports = await list_exports(client, addresses.neuronpedia_exports, source, downloads)
        except FetchError as error:
            raise IncompleteDownload(f"explanations of {source}: {error}") from error
        explained, problems = await explained_features(exports, None)
    if problems:
        raise IncompleteDownload(f"explanations of {source}: {'; '.join(problems)}; what was downloaded is kept: try again")
    return dict(sorted(explained.items()))


def matching_features(explanations: Mapping[int, Sequence[str]], pattern: str) -> list[int]:
    """The features one of whose explanations the regular expression is found in, upper and lower case alike, ascending."""
    try:
        expression = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise SettingsError(f"features: pattern {pattern!r} is no regular expression: {error}") from error
    return sorted(feature for feature, texts in explanations.items() if any(expression.search(text) for text in texts))
