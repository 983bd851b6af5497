"""Many features of a source, from its exports.

Features batches are ordered by index as text, so all are read. Activations batches hold a range of indices each: 1,024 of them as a
rule, but some sources were exported by another program, with another number, which is found out from a batch.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from saesteer.sources.http import FetchError, as_finished
from saesteer.sources.neuronpedia.convert import Known, Record, Strings, descriptions, kept, known, record
from saesteer.sources.neuronpedia.exports import ONE_BY_ONE, Exports, Lines, read_all, read_batch
from saesteer.sources.neuronpedia.outcomes import Failed, Outcome

_USUAL_SIZE = 1024
_SIZES = (_USUAL_SIZE, *(2**n for n in range(4, 16)))

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Batch:
    """The wanted records of an activations batch."""

    records: Mapping[int, Sequence[Record]]
    n_unusable: Mapping[int, int]
    lowest: int
    highest: int


async def from_exports(exports: Exports, features: Sequence[int], n_records: int) -> AsyncGenerator[Outcome, None]:
    """Features from the exports, those of a batch as soon as it is there."""
    wanted = frozenset(features)
    explained, problems = await explained_features(exports, wanted)
    if problems:
        yield Outcome(failed=[Failed(tuple(features), problems[0])])
        return
    described, problems = await _described(exports, wanted, explained)
    rest = tuple(sorted(wanted - set(described)))
    if rest:
        yield Outcome(failed=[Failed(rest, problems[0])]) if problems else Outcome(unsure=rest)
    if not described:
        return
    jobs = [partial(_with_records, exports, *group, n_records) for group in await _batches(exports, described)]
    async for result in as_finished(jobs, exports.client.policy.concurrency):
        yield result


async def explained_features(exports: Exports, wanted: frozenset[int] | None) -> tuple[dict[int, list[str]], list[str]]:
    """Feature -> its explanations (of all features for None), and what is wrong with batches that could not be read."""
    batches, problems = await read_all(exports, "explanations", partial(_explanations, wanted))
    merged: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for batch in batches:
        for feature, items in batch.items():
            merged[feature] += items
    return {feature: texts for feature, items in merged.items() if (texts := descriptions(items))}, problems


def _explanations(wanted: frozenset[int] | None, lines: Lines) -> dict[int, list[dict[str, Any]]]:
    """Only what is needed of explanations: most of a line is an embedding of its text."""
    by_feature = defaultdict(list)
    for feature, item in lines:
        if wanted is None or feature in wanted:
            by_feature[feature].append({name: item.get(name) for name in ("description", "typeName", "explanationModelName")})
    return dict(by_feature)


async def _described(exports: Exports, wanted: frozenset[int], explained: Mapping[int, list[str]]) -> tuple[dict[int, Known], list[str]]:
    """Feature -> what its own line says (no records yet), and what is wrong with batches that could not be read."""

    def collect(lines: Lines) -> dict[int, Known]:
        return {i: known(item, i, explained.get(i, ()), (), 0) for i, item in lines if i in wanted}

    batches, problems = await read_all(exports, "features", collect)
    return {feature: one for batch in batches for feature, one in batch.items()}, problems


async def _batches(exports: Exports, described: Mapping[int, Known]) -> list[tuple[int, int, dict[int, Known]]]:
    """(number, features a batch, the wanted features in it) of each activations batch that is needed."""
    size = await _batch_size(exports, max(described))
    groups: dict[int, dict[int, Known]] = defaultdict(dict)
    for feature, one in sorted(described.items()):
        groups[feature // size][feature] = one
    return [(number, size, group) for number, group in groups.items()]


async def _batch_size(exports: Exports, feature: int) -> int:
    """How many indices an activations batch covers, from the one that usually holds a feature."""
    number = feature // _USUAL_SIZE
    try:
        batch = await read_batch(exports, "activations", number, partial(_records, frozenset()))
    except FetchError:
        return _USUAL_SIZE  # what is wrong is reported where the batch is needed
    fitting = [size for size in _SIZES if batch.lowest // size == batch.highest // size == number]
    size = fitting[0] if fitting else _USUAL_SIZE
    if size != _USUAL_SIZE:
        log.info("%s: its activations batches cover %d features each", exports.source, size)
    return size


def _records(wanted: frozenset[int], lines: Lines) -> _Batch:
    strings, records, n_unusable = Strings(), defaultdict(list), Counter[int]()
    lowest, highest = 2**32, -1
    for feature, item in lines:
        lowest, highest = min(lowest, feature), max(highest, feature)
        if feature in wanted:
            parsed = record(item, strings)
            if parsed is None:
                n_unusable[feature] += 1
            else:
                records[feature].append(parsed)
    return _Batch(records, n_unusable, lowest, highest)


async def _with_records(exports: Exports, number: int, size: int, features: Mapping[int, Known], n_records: int) -> Outcome:
    try:
        batch = await read_batch(exports, "activations", number, partial(_records, frozenset(features)))
        if batch.highest >= 0 and not batch.lowest // size == batch.highest // size == number:
            raise FetchError(f"activations batch {number} holds features {batch.lowest} to {batch.highest}: unknown layout; {ONE_BY_ONE}")
    except FetchError as error:
        return Outcome(failed=[Failed(tuple(features), str(error))])
    complete = [
        replace(one, records=kept(batch.records.get(i, ()), n_records), n_unusable=batch.n_unusable.get(i, 0))
        for i, one in features.items()
    ]
    unsure = [one.feature for one in complete if not one.records and not one.n_unusable and _is_alive(one)]
    return Outcome(known=[one for one in complete if one.feature not in unsure], unsure=unsure)


def _is_alive(feature: Known) -> bool:
    return (feature.density or 0) > 0 or (feature.max_activation or 0) > 0
