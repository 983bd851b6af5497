"""Neuronpedia's bulk exports: gzipped JSON lines in numbered batches, each downloaded once and kept compressed.

    downloads/neuronpedia/v1/{model}/{source}/{features,activations,explanations}/batch-{k}.jsonl.gz

A batch gets its name only after it was decoded to its end, checksum included, and every line of it was read. Features batches are ordered
by index as text, so all are read. Activations batches hold a range of indices each: 1,024 of them as a rule, but some sources were exported
by another program, with another number, which is found out from a batch.
"""

import asyncio
import gzip
import logging
import re
import shutil
import tempfile
import zlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote
from xml.etree import ElementTree

import httpx2

from saesteer.core.errors import SaesteerError
from saesteer.core.files import LARGEST_RATIO, write_atomically
from saesteer.sources.http import Client, FetchError, Transient, as_finished, body_of, get
from saesteer.sources.neuronpedia.convert import (
    Example,
    Failed,
    Known,
    Outcome,
    descriptions,
    example,
    feature_of,
    first_of,
    parse_json,
    with_examples,
)
from saesteer.sources.neuronpedia.sources import Source

_BATCH = re.compile(r"(?P<kind>features|activations|explanations)/batch-(?P<number>\d+)\.jsonl\.gz")
_LONGEST_LINE = 2**24  # bytes; a feature's line has some ten thousand
_IDENTITY = {"Accept-Encoding": "identity"}  # the batches are compressed files already
_USUAL_SIZE = 1024
_SIZES = (_USUAL_SIZE, *(2**n for n in range(4, 16)))
_ONE_BY_ONE = "route: api in the configuration's max_activating_examples asks for features one by one instead"

T = TypeVar("T")
Lines = Iterator[tuple[int, Mapping[str, Any]]]
"""(feature, its JSON object) of each line of a batch."""

log = logging.getLogger(__name__)


class DamagedBatch(SaesteerError, ValueError):
    """A batch file that does not decode to its end, or whose lines are not what the exports hold."""


@dataclass(frozen=True)
class Exports:
    """The batches of one source, as the bucket lists them."""

    client: Client
    base: str
    source: Source
    folder: Path
    sizes: Mapping[tuple[str, int], int]
    """(kind, number) -> bytes."""


async def list_exports(client: Client, base: str, source: Source, downloads: Path) -> Exports:
    """Ask which batches of a source there are."""
    prefix, base = f"v1/{source}/", base.rstrip("/")
    query, bytes_of = {"list-type": "2", "prefix": prefix}, dict[str, int]()
    while True:
        page, token = await get(client, f"{base}/?{httpx2.QueryParams(query)}", _read_listing)
        if token and not set(page) - set(bytes_of):
            raise FetchError("the listing of exports does not end")
        bytes_of.update(page)
        if not token:
            break
        query["continuation-token"] = token
    named = {key: _BATCH.fullmatch(key.removeprefix(prefix)) for key in bytes_of}
    sizes = {(match["kind"], int(match["number"])): bytes_of[key] for key, match in named.items() if match}
    if not any(kind == "features" for kind, _ in sizes):
        raise FetchError(f"no exports of {source} are listed: check the source's name; {_ONE_BY_ONE}")
    return Exports(client, base, source, downloads / "neuronpedia", sizes)


async def _read_listing(response: httpx2.Response) -> tuple[dict[str, int], str]:
    """One page of S3's listing: key -> bytes, and the token of the next page ("": this is the last)."""
    body = await body_of(response)
    try:
        root = ElementTree.fromstring(body)
        if not root.tag.endswith("ListBucketResult"):
            raise ValueError(root.tag)
        page = {_text(item, "Key"): int(_text(item, "Size")) for item in root.iterfind("{*}Contents")}
        return page, _text(root, "NextContinuationToken") if _text(root, "IsTruncated") == "true" else ""
    except (ElementTree.ParseError, ValueError) as error:
        raise Transient("answered with something that is no S3 bucket's listing") from error


def _text(item: ElementTree.Element, name: str) -> str:
    text = item.findtext(f"{{*}}{name}")
    if text is None:
        raise ValueError(f"no {name}")
    return text


async def read_batch(exports: Exports, kind: str, number: int, collect: Callable[[Lines], T]) -> T:
    """What `collect` makes of a batch's lines; the batch is downloaded unless it is there and whole."""
    key = f"v1/{exports.source}/{kind}/batch-{number}.jsonl.gz"
    path = exports.folder / key
    if path.is_file():
        try:
            with path.open("rb") as file:
                return await _decoded(exports, file, collect)
        except DamagedBatch as error:
            log.warning("%s is damaged (%s): it is removed and fetched again", path, error)
            path.unlink()
    if (kind, number) not in exports.sizes:
        raise FetchError(f"{kind} batch {number} is missing in the listing of exports; {_ONE_BY_ONE}")
    try:
        return await get(
            exports.client, f"{exports.base}/{quote(key)}", partial(_download, exports, (kind, number), path, collect), _IDENTITY
        )
    except FetchError as error:
        raise FetchError(f"{kind} batch {number}: {error}") from error


async def _download(exports: Exports, batch: tuple[str, int], path: Path, collect: Callable[[Lines], T], response: httpx2.Response) -> T:
    """Receive a batch into a file without a name, read it, and only then give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as body:
        async for chunk in response.aiter_raw():
            body.write(chunk)
            if body.tell() > exports.sizes[batch]:
                raise Transient(f"more bytes came than the {exports.sizes[batch]} that are listed")
        if body.tell() != exports.sizes[batch]:
            raise Transient(f"{body.tell()} bytes came, {exports.sizes[batch]} are listed")
        body.seek(0)
        try:
            result = await _decoded(exports, body, collect)
        except DamagedBatch as error:
            raise Transient(f"damaged on arrival ({error})") from error
        await asyncio.to_thread(write_atomically, path, partial(_copy, body))
    return result


def _copy(body: BinaryIO, partial_file: Path) -> None:
    body.seek(0)
    with partial_file.open("wb") as file:
        shutil.copyfileobj(body, file)


async def _decoded(exports: Exports, file: Any, collect: Callable[[Lines], T]) -> T:
    async with exports.client.reading:
        return await asyncio.to_thread(lambda: collect(lines(file, exports.source)))


def lines(file: Any, source: Source) -> Lines:
    """The JSON lines of a gzip file (binary, open), or DamagedBatch. One line at a time is in memory, and no more is unpacked than a batch
    can hold."""
    number = unpacked = 0
    try:
        with gzip.GzipFile(fileobj=file) as text:
            while line := text.readline(_LONGEST_LINE):
                number += 1
                unpacked += len(line)
                if unpacked > LARGEST_RATIO * file.tell():
                    raise ValueError(f"it unpacks to more than {LARGEST_RATIO} times its size, as no batch of {source} does")
                if line.strip():
                    yield _parsed(line, source)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise DamagedBatch(f"after {number} lines: {error}") from error
    if number == 0 and file.tell() == 0:
        raise DamagedBatch("after 0 lines: the file is empty")


def _parsed(line: bytes, source: Source) -> tuple[int, Mapping[str, Any]]:
    item = parse_json(line)
    if not isinstance(item, dict) or not str(item.get("index")).isdecimal():
        raise ValueError("a line is no JSON object with an index")
    of = Source(str(item.get("modelId")), str(item.get("layer")))
    if of != source:
        raise ValueError(f"a line is of {of}, not {source}")
    return int(item["index"]), item


async def read_all(exports: Exports, kind: str, collect: Callable[[Lines], T]) -> tuple[list[T], list[str]]:
    """What `collect` makes of each listed batch of a kind, and what is wrong with the others."""

    async def read(number: int) -> T | FetchError:
        try:
            return await read_batch(exports, kind, number, collect)
        except FetchError as error:
            return error

    numbers = sorted(number for listed, number in exports.sizes if listed == kind)
    gaps = set(range(max(numbers, default=0))) - set(numbers)  # not listed though a later one is
    problems = [f"{kind} batch {first_of(gaps)} is missing in the listing of exports; {_ONE_BY_ONE}"] if gaps else []
    results: list[T] = []
    async for result in as_finished([partial(read, number) for number in numbers], exports.client.policy.concurrency):
        if isinstance(result, FetchError):
            problems.append(str(result))
        else:
            results.append(result)
    return results, sorted(problems)


async def from_exports(exports: Exports, features: Sequence[int], n_examples: int) -> AsyncGenerator[Outcome, None]:
    """Features from the exports, those of a batch as soon as it is there."""

    def described_by(lines: Lines) -> dict[int, Known]:
        return {feature: feature_of(item, feature, explained.get(feature, ())) for feature, item in lines if feature in wanted}

    wanted = frozenset(features)
    explained, problems = await explained_features(exports, wanted)
    if problems:
        yield Outcome(failed=[Failed(tuple(features), problems[0])])
        return
    batches, problems = await read_all(exports, "features", described_by)
    described = {feature: item for batch in batches for feature, item in batch.items()}  # without max-activating examples yet
    absent = tuple(sorted(wanted - set(described)))
    if absent:
        yield Outcome(failed=[Failed(absent, problems[0])]) if problems else Outcome(unsure=absent)
    if not described:
        return
    size = await _batch_size(exports, max(described))
    groups: dict[int, dict[int, Known]] = defaultdict(dict)
    for feature, item in sorted(described.items()):
        groups[feature // size][feature] = item
    jobs = [partial(_with_examples, exports, number, size, group, n_examples) for number, group in groups.items()]
    async for result in as_finished(jobs, exports.client.policy.concurrency):
        yield result


async def explained_features(exports: Exports, wanted: frozenset[int] | None) -> tuple[dict[int, list[str]], list[str]]:
    """Feature -> its explanations (of all features for None), and what is wrong with batches that could not be read."""

    def collect(lines: Lines) -> list[tuple[int, dict[str, Any]]]:
        """Only what is needed of explanations: most of a line is an embedding of its text."""
        names = ("description", "typeName", "explanationModelName")
        return [(feature, {name: item.get(name) for name in names}) for feature, item in lines if wanted is None or feature in wanted]

    batches, problems = await read_all(exports, "explanations", collect)
    merged: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for feature, item in (line for batch in batches for line in batch):
        merged[feature].append(item)
    return {feature: texts for feature, items in merged.items() if (texts := descriptions(items))}, problems


async def _batch_size(exports: Exports, feature: int) -> int:
    """How many indices an activations batch covers, from the one that usually holds a feature."""
    number = feature // _USUAL_SIZE
    try:
        batch = await read_batch(exports, "activations", number, partial(_examples, frozenset()))
    except FetchError:
        return _USUAL_SIZE  # what is wrong is reported where the batch is needed
    size = next((size for size in _SIZES if batch.lowest // size == batch.highest // size == number), _USUAL_SIZE)
    if size != _USUAL_SIZE:
        log.info("%s: its activations batches cover %d features each", exports.source, size)
    return size


@dataclass(frozen=True)
class _Batch:
    """The max-activating examples of an activations batch that were asked for."""

    examples: Mapping[int, Sequence[Example | None]]
    lowest: int
    highest: int


def _examples(wanted: frozenset[int], lines: Lines) -> _Batch:
    examples, lowest, highest = defaultdict(list), 2**32, -1
    for feature, item in lines:
        lowest, highest = min(lowest, feature), max(highest, feature)
        if feature in wanted:
            examples[feature].append(example(item))
    return _Batch(examples, lowest, highest)


async def _with_examples(exports: Exports, number: int, size: int, features: Mapping[int, Known], n_examples: int) -> Outcome:
    try:
        batch = await read_batch(exports, "activations", number, partial(_examples, frozenset(features)))
        if batch.highest >= 0 and not batch.lowest // size == batch.highest // size == number:
            raise FetchError(f"activations batch {number} holds features {batch.lowest} to {batch.highest}: unknown layout; {_ONE_BY_ONE}")
    except FetchError as error:
        return Outcome(failed=[Failed(tuple(features), str(error))])
    complete, unsure = [], []
    for feature, described in features.items():
        item = with_examples(described, batch.examples.get(feature, ()), n_examples)
        is_alive = (item.density or 0) > 0 or (item.max_activation or 0) > 0
        if is_alive and not item.examples and not item.n_unusable:
            unsure.append(feature)
        else:
            complete.append(item)
    return Outcome(features=complete, unsure=unsure)
