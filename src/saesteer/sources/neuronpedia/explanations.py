"""A source's explanations: what Neuronpedia says each of its features means."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from saesteer.settings import Addresses, SettingsError
from saesteer.sources.http import FetchError, Policy, Refusal, open_client
from saesteer.sources.neuronpedia.api import ADVICE, Match, nearest_explanations
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


def nearest_features(
    addresses: Addresses,
    source: Source,
    query: str,
    n: int,
    policy: Policy = Policy(),  # noqa: B008 (frozen)
) -> list[Match]:
    """The `n` features of a source whose explanations are nearest to a query, each with the nearest, as Neuronpedia's search has them."""
    return asyncio.run(_nearest_features(addresses, source, query, n, policy))


async def _nearest_features(addresses: Addresses, source: Source, query: str, n: int, policy: Policy) -> list[Match]:
    nearest: dict[int, Match] = {}
    try:
        async with open_client(policy) as client, aclosing(nearest_explanations(client, addresses.neuronpedia, source, query)) as matches:
            async for match in matches:
                nearest.setdefault(match.feature, match)
                if len(nearest) == n:
                    break
    except FetchError as error:
        advice = ADVICE.get(error.status, "") if isinstance(error, Refusal) and error.status != 404 else ""
        raise IncompleteDownload(f"search of {source}: {error}{advice}") from error
    return list(nearest.values())


def matching_features(explanations: Mapping[int, Sequence[str]], pattern: str) -> dict[int, str]:
    """Feature -> the first of its explanations that the regular expression is found in, upper and lower case alike, ascending."""
    try:
        expression = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise SettingsError(f"features: pattern {pattern!r} is no regular expression: {error}") from error
    first = {feature: next(filter(expression.search, texts), None) for feature, texts in sorted(explanations.items())}
    return {feature: text for feature, text in first.items() if text is not None}
