"""Neuronpedia's API: one feature a request, and the explanations nearest to a query."""

import json
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import httpx2

from saesteer.settings import SettingsError
from saesteer.sources.http import Client, FetchError, Refusal, Transient, as_finished, body_of, get
from saesteer.sources.neuronpedia.convert import (
    Failed,
    Known,
    Outcome,
    descriptions,
    example,
    feature_of,
    number,
    parse_json,
    with_examples,
)
from saesteer.sources.neuronpedia.sources import Source

KEY_VARIABLE = "NEURONPEDIA_API_KEY"
_CHECK_KEY = f": access refused; if {KEY_VARIABLE} is set, check it, or unset it (reading needs no key)"
ADVICE = {
    401: _CHECK_KEY,
    403: _CHECK_KEY,
    404: ", and not in the API's own words: check addresses.neuronpedia in the configuration",
}


async def from_api(client: Client, base: str, source: Source, features: Sequence[int], n_examples: int) -> AsyncGenerator[Outcome, None]:
    """Features one by one. After many failures in a row the others are not asked for: the server is not well, or refuses us."""
    jobs = [partial(_feature, client, base, source, feature, n_examples) for feature in features]
    remaining, in_a_row = set(features), 0
    async with aclosing(as_finished(jobs, client.policy.concurrency)) as results:
        async for result in results:
            if isinstance(result, Failed):
                remaining -= set(result.features)
                in_a_row += 1
                yield Outcome(failed=[result])
            else:
                remaining.discard(result.feature)
                in_a_row = 0
                yield Outcome(features=[result])
            if in_a_row >= client.policy.give_up_after:
                break
    if remaining:
        yield Outcome(failed=[Failed(tuple(sorted(remaining)), f"not asked for, since {in_a_row} features in a row could not be had")])


async def has_source(client: Client, base: str, source: Source) -> bool:
    """Whether Neuronpedia has a source at all, by its feature 0; a FetchError where that cannot be found out."""
    result = await _feature(client, base, source, 0, 0)
    if isinstance(result, Failed):
        raise FetchError(result.why)
    return result.is_present


async def _feature(client: Client, base: str, source: Source, feature: int, n_examples: int) -> Known | Failed:
    url = f"{base.rstrip('/')}/api/feature/{quote(source.model)}/{quote(source.source)}/{feature}"
    try:
        return await get(client, url, partial(_read, source, feature, n_examples), key_header())
    except Refusal as error:
        if error.status == 404 and object_in(error.body) is not None:
            return Known(feature, is_present=False)
        return Failed((feature,), f"{error}{ADVICE.get(error.status, '')}")
    except FetchError as error:
        return Failed((feature,), str(error))


@dataclass(frozen=True)
class Match:
    """An explanation that a search answers with."""

    feature: int
    explanation: str
    similarity: float | None  # cosine of its embedding and the query's


async def nearest_explanations(client: Client, base: str, source: Source, query: str) -> AsyncGenerator[Match, None]:
    """A source's explanations in the order of their nearness to a query, in Neuronpedia's embedding; one page per request."""
    url, offset = f"{base.rstrip('/')}/api/explanation/search", 0
    while True:
        question = {"modelId": source.model, "layers": [source.source], "query": query, "offset": offset}
        matches, following = await get(client, url, partial(_read_matches, source), key_header(), json.dumps(question).encode())
        for match in matches:
            yield match
        if following is None:
            return
        if not following > offset:
            raise FetchError("the search's pages do not end")
        offset = following


async def _read_matches(source: Source, response: httpx2.Response) -> tuple[list[Match], int | None]:
    """One page of a search, and where the next begins (None: this is the last)."""
    try:
        answer = parse_json(await body_of(response))
        items = [(str(item["index"]), item["description"], number(item.get("cosine_similarity"))) for item in answer["results"]]
        matches = [Match(int(index), text.strip(), similarity) for index, text, similarity in items]
        of = {(item["modelId"], item["layer"]) for item in answer["results"]}
        following = int(answer["nextOffset"]) if answer["hasMore"] else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Transient("answered with something that is no search's result") from error
    if of - {(source.model, source.source)}:
        raise Transient("answered with features of another source than the one asked for")
    return matches, following


def key_header() -> dict[str, str]:
    """The header with the user's key, where there is one in the environment."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise SettingsError(f"the environment variable {KEY_VARIABLE} holds characters that no key has: set it again, or unset it")
    return {"x-api-key": key} if key else {}


def object_in(body: bytes) -> dict[str, Any] | None:
    """The JSON object in which the API itself says what is wrong; None for other bodies, such as a page of a proxy."""
    try:
        values = parse_json(body)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


async def _read(source: Source, feature: int, n_examples: int, response: httpx2.Response) -> Known:
    body = await body_of(response)
    try:
        item = parse_json(body)
    except ValueError as error:
        kind = response.headers.get("content-type", "something")
        raise Transient(f"answered with {kind.partition(';')[0]} that is not JSON") from error
    if not isinstance(item, dict):
        raise Transient("answered with JSON that is no feature")
    identity = (item.get("modelId"), item.get("layer"), str(item.get("index")))
    if identity != (source.model, source.source, str(feature)):
        raise Transient("answered with another feature than the one asked for")
    known = feature_of(item, feature, descriptions(_objects(item, "explanations")))
    return with_examples(known, list(map(example, _objects(item, "activations"))), n_examples)


def _objects(item: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects; null is an empty one, as in the exports, where a feature without max-activating examples has no lines."""
    entries = item.get(name, "absent")
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Transient(f"answered with a feature whose {name} are no list of objects")
    return entries
