"""The MAX_ACTIVATING_EXAMPLES rows of features from Neuronpedia, whichever way is shorter."""

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from tqdm import tqdm

from saesteer.settings import Addresses, NeuronpediaExamples
from saesteer.sources.http import Client, FetchError, Policy, as_they_come, open_client
from saesteer.sources.neuronpedia.api import from_api, has_source
from saesteer.sources.neuronpedia.convert import Failed, Known, Outcome, first_of, rows
from saesteer.sources.neuronpedia.exports import from_exports, list_exports
from saesteer.sources.neuronpedia.sources import Source

_FRAME = 64  # features a frame at most: a thousand features' examples as a frame and as objects at once would take too much memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Download:
    """What one call of max_activating_examples works with, and its counts."""

    client: Client
    addresses: Addresses
    settings: NeuronpediaExamples
    downloads: Path
    failures: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    """(source, why) -> the features that could not be had."""
    counts: Counter[str] = field(default_factory=Counter)


def max_activating_examples(
    addresses: Addresses,
    sources: Mapping[int, Source],
    missing: pl.DataFrame,
    settings: NeuronpediaExamples,
    downloads: Path,
    policy: Policy = Policy(),  # noqa: B008 (frozen)
) -> Iterator[pl.DataFrame]:
    """The MAX_ACTIVATING_EXAMPLES rows of the missing keys (layer, feature), each frame of one layer, as soon as they are there.

    By max_activating_examples.route: the bulk exports, kept below `downloads`, or one request a feature; both give the same rows. What
    cannot be had for now is left out, and a FetchError at the end says what and why.
    """

    async def frames() -> AsyncGenerator[pl.DataFrame, None]:
        by_layer = missing.group_by("layer").agg(pl.col("feature").sort()).sort("layer")
        with tqdm(total=missing.height, unit="feature", desc="Neuronpedia") as bar:
            async with open_client(policy) as client:
                download = _Download(client, addresses, settings, downloads)
                for layer, features in by_layer.iter_rows():
                    async for outcome in _layer(download, sources[layer], features):
                        _count(download, sources[layer], outcome)
                        for start in range(0, len(outcome.features), _FRAME):
                            frame = rows(layer, outcome.features[start : start + _FRAME])
                            bar.update(frame.height)
                            yield frame
        _report(download)

    yield from as_they_come(frames())


async def _layer(download: _Download, source: Source, features: Sequence[int]) -> AsyncGenerator[Outcome, None]:
    """One layer's features; those that Neuronpedia does not have come last, when it is sure that it has the source."""
    n_present, absent = 0, []
    async for outcome in _by_route(download, source, features):
        present = [item for item in outcome.features if item.is_present]
        n_present += len(present)
        absent += [item for item in outcome.features if not item.is_present]
        yield Outcome(present, outcome.failed)
    if absent:
        yield await _absent(download, source, absent, n_present)


async def _absent(download: _Download, source: Source, absent: Sequence[Known], n_present: int) -> Outcome:
    """A misspelt source has no feature at all: that must not be stored as features without max-activating examples."""
    try:
        if n_present or await has_source(download.client, download.addresses.neuronpedia, source):
            return Outcome(absent)
        why = f"Neuronpedia has neither these features nor feature 0 of {source}: check the source's name"
    except FetchError as error:
        why = f"not found, and whether Neuronpedia has {source} at all could not be found out: {error}"
    return Outcome(failed=[Failed(tuple(item.feature for item in absent), why)])


async def _by_route(download: _Download, source: Source, features: Sequence[int]) -> AsyncGenerator[Outcome, None]:
    """Outcomes without anything unsure: what the exports leave open, the API is asked."""
    settings, unsure = download.settings, list(features)
    if settings.route == "bulk" or (settings.route == "auto" and len(features) > settings.bulk_above):
        unsure = []
        try:
            exports = await list_exports(download.client, download.addresses.neuronpedia_exports, source, download.downloads)
        except FetchError as error:
            yield Outcome(failed=[Failed(tuple(features), str(error))])
            return
        async for outcome in from_exports(exports, features, settings.n_examples):
            unsure += outcome.unsure
            yield outcome
    async for outcome in from_api(download.client, download.addresses.neuronpedia, source, unsure, settings.n_examples):
        yield outcome


def _count(download: _Download, source: Source, outcome: Outcome) -> None:
    for failed in outcome.failed:
        download.failures[str(source), failed.why] += failed.features
    for item in outcome.features:
        download.counts[item.reason or "with max-activating examples"] += 1
        download.counts["max-activating examples that cannot be used"] += item.n_unusable


def _report(download: _Download) -> None:
    """Log what was met; raise if something is missing."""
    counts = ", ".join(f"{n} {what}" for what, n in sorted(download.counts.items()) if n)
    retries = ", ".join(f"{n} x {why}" for why, n in sorted(download.client.retries.items()))
    log.info("Neuronpedia: features: %s; asked again: %s", counts or "none", retries or "never")
    if download.failures:
        failed = sorted(download.failures.items())
        lines = [f"{source}: {len(features)} ({first_of(features)}): {why}" for (source, why), features in failed]
        total = sum(len(features) for _, features in failed)
        raise FetchError(
            f"Neuronpedia: {total} features could not be downloaded and are not stored:\n  " + "\n  ".join(lines) + "\n"
            "What was downloaded is kept: run the same command again to fetch just these."
        )
