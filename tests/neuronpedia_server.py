"""A Neuronpedia on loopback: its API and its bucket of exports, over a tree that write_export made; with faults by path.

What is posted is checked as Neuronpedia's own program checks it (its webapp's routes explanation/search, list/new-with-features,
feature/upload-batch, vector/new); a search ranks explanations by the words that they share with the query.
"""

import functools
import gzip
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import polars as pl
from jsonschema import Draft202012Validator
from loopback import Handler, serving_with

from saesteer.settings import Addresses
from saesteer.sources.http import Policy
from saesteer.sources.neuronpedia.sources import Source
from saesteer.steps.max_activating_examples import MAX_ACTIVATING_EXAMPLES

SOURCE = Source("tiny-model", "3-tiny-res-1k")
LAYER = 3
QUICK = Policy(attempts=3, first_wait=0.002, longest_wait=0.01, timeout=5.0, concurrency=4, give_up_after=20)
HTML = b"<!doctype html><html><body>Too many requests, come back later</body></html>"

PAGE = 20  # results of a search
KEY = "sk-of-the-user"

Fault = Callable[[Handler, bytes], None]
"""Answers a request in a wrong way; gets the body of the right answer."""


def status(code: int, **headers: str) -> Fault:
    """A status with an HTML page, as proxies and rate limits answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request, _: request.reply(code, HTML, {"Content-Type": "text/html", **named})


def page(request: Handler, _: bytes) -> None:
    """An HTML page where data should be, with status 200."""
    request.reply(200, HTML, {"Content-Type": "text/html; charset=utf-8"})


def instead(change: Callable[[bytes], bytes]) -> Fault:
    """Another body, with that body's own length."""
    return lambda request, body: request.reply(200, change(body))


def cut(request: Handler, body: bytes) -> None:
    """The connection ends in the middle of the body."""
    request.reply(200, body, cut=len(body) // 2)


class Neuronpedia:
    """What the server has and was asked; tests change the attributes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: dict[str, list[Fault]] = {}
        self.forever: dict[str, Fault] = {}
        self.hidden: set[str] = set()
        self.absent: set[int] = set()
        self.page_size = 1000
        self.delay = 0.0
        self.requests: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.made: list[tuple[str, bytes]] = []
        """(path, body) of each change that was made."""
        self.most_at_once = 0
        self.address = ""
        self._at_once = 0
        self._lock = threading.Lock()

    @functools.cached_property
    def by_feature(self) -> dict[str, dict[str, list[Any]]]:
        """What the API answers from: read at the first question, so a test changes the tree before it asks."""
        entries: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        for path in sorted(self.root.rglob("batch-*.jsonl.gz")):
            for line in read_batch(path):
                entries[f"{line['modelId']}/{line['layer']}/{line['index']}"][path.parent.name].append(line)
        return entries

    def load(self) -> None:
        """Read the tree again, after a test has changed it."""
        vars(self).pop("by_feature", None)

    def batch(self, kind: str, number: int = 0) -> Path:
        """The file of a batch in the bucket."""
        return self.root / self.key(kind, number).lstrip("/")

    def replace(self, feature: int, kind: str, lines: Iterable[Mapping[str, Any]]) -> None:
        """Give a feature other lines of its own, which lack modelId, layer and index, in the first batch."""
        named = {"modelId": SOURCE.model, "layer": SOURCE.source, "index": str(feature)}
        rest = [line for line in read_batch(self.batch(kind)) if line["index"] != named["index"]]
        write_batch(self.batch(kind), [*({**named, **line} for line in lines), *rest])
        self.load()

    @property
    def addresses(self) -> Addresses:
        return Addresses(neuronpedia=self.address, neuronpedia_exports=self.address)

    def key(self, kind: str, number: int) -> str:
        return f"/v1/{SOURCE}/{kind}/batch-{number}.jsonl.gz"

    def downloads(self) -> int:
        """Batches that were asked for."""
        return sum(count for path, count in self.requests.items() if path.startswith("/v1/"))

    def api_requests(self) -> int:
        return sum(count for path, count in self.requests.items() if path.startswith("/api/"))

    def serve(self, request: Handler) -> None:
        place = urlsplit(request.path)
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.requests[place.path] += 1
            self.headers.append({"path": place.path, **{name.lower(): value for name, value in request.headers.items()}})
            waiting = self.faults.get(place.path)
            fault = waiting.pop(0) if waiting else self.forever.get(place.path)
        posted = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        try:
            time.sleep(self.delay)
            if request.command == "POST":
                code, answer = self._posted(place.path, posted, request.headers.get("x-api-key"))
                body, kind = json.dumps(answer).encode(), "application/json"
                if code == 200 and fault in (None, cut) and not place.path.endswith("/search"):
                    self.made.append((place.path, posted))
            else:
                code, body, kind = self._right(place.path, parse_qs(place.query))
            if fault:
                fault(request, body)
            else:
                request.reply(code, body, {"Content-Type": kind})
        finally:
            with self._lock:
                self._at_once -= 1

    def _right(self, path: str, query: Mapping[str, list[str]]) -> tuple[int, bytes, str]:
        if path.startswith("/api/feature/"):
            return self._feature(path.removeprefix("/api/feature/"))
        if path == "/":
            return 200, self._listing(query), "application/xml"
        file = self.root / path.lstrip("/")
        if not file.is_file():
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml"
        return 200, file.read_bytes(), "application/x-gzip"

    def _posted(self, path: str, body: bytes, key: str | None) -> tuple[int, Any]:
        values = json.loads(body)
        if not path.endswith("/search") and key != KEY:
            return 401, {"error": "This endpoint requires authorization. Specify your API key in the header x-api-key."}
        if fault := fault_of(path, values):
            return 400, {"message": fault}
        if path.endswith("/search"):
            return 200, self._search(values)
        return 200, {"message": "Success", "url": f"{self.address}/{path.split('/')[2]}/1"}

    def _search(self, values: Mapping[str, Any]) -> dict[str, Any]:
        asked = set(values["query"].split())
        ranked = []
        for name, parts in self.by_feature.items():
            model, layer, index = name.split("/")
            for item in parts["explanations"] if (model, [layer]) == (values["modelId"], values["layers"]) else ():
                words = set(item["description"].split())
                named = {"modelId": model, "layer": layer, "index": index, "description": item["description"]}
                ranked.append(named | {"cosine_similarity": len(words & asked) / len(words | asked)})
        ranked.sort(key=lambda item: (-item["cosine_similarity"], int(item["index"])))
        start = values["offset"]
        page = ranked[start : start + PAGE]
        more = {"nextOffset": start + PAGE} if len(page) == PAGE else {}
        return {"request": values, "results": page, "resultsCount": len(page), "hasMore": bool(more), **more}

    def _feature(self, name: str) -> tuple[int, bytes, str]:
        parts = self.by_feature.get(name)
        if parts is None or int(name.rpartition("/")[2]) in self.absent:
            return 404, json.dumps({"error": "Feature not found"}).encode(), "application/json"
        examples = sorted(parts["activations"], key=lambda item: -value if isinstance(value := item.get("maxValue"), int | float) else 0)
        body = {**parts["features"][0], "activations": examples, "explanations": parts["explanations"]}
        return 200, json.dumps(body).encode(), "application/json"

    def _listing(self, query: Mapping[str, list[str]]) -> bytes:
        files = {f"{path.relative_to(self.root)}": path for path in self.root.rglob("*") if path.is_file()}
        keys = sorted(key for key in files if key.startswith(query["prefix"][0]) and f"/{key}" not in self.hidden)
        start = int(query.get("continuation-token", ["0"])[0])
        end = start + self.page_size
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{files[key].stat().st_size}</Size></Contents>" for key in keys[start:end]
        )
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < len(keys) else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
        ).encode()


def _object(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object; a name that ends in _ may be missing."""
    named = {name.rstrip("_"): schema for name, schema in properties.items()}
    return {"type": "object", "properties": named, "required": [name for name in properties if not name.endswith("_")]}


def _list(items: dict[str, Any], least: int = 1, most: int = 10**6) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _number(low: float, high: float) -> dict[str, Any]:
    return {"type": "number", "minimum": low, "maximum": high}


ANY_TEXT, TEXT, INTEGER, NUMBER = {"type": "string"}, {"type": "string", "minLength": 1}, {"type": "integer"}, _number(-1e8, 1e8)
FEATURE = _object(
    index=INTEGER,
    density_=_number(0, 1),
    explanations=_list(_object(text=TEXT | {"maxLength": 512}), 0),
    topLogits=_list(_object(token=ANY_TEXT, value=NUMBER), 0),
    activations=_list(_object(tokens=_list(TEXT, 1, 1024), values=_list(NUMBER, 1, 1024))),
)
FORMS = {
    "/api/explanation/search": _object(modelId=TEXT, layers=_list(ANY_TEXT), query={"type": "string", "minLength": 3}, offset=INTEGER),
    "/api/list/new-with-features": _object(
        name=TEXT, description=ANY_TEXT, features=_list(_object(modelId=TEXT, layer=TEXT, index=INTEGER, description=ANY_TEXT), 0)
    ),
    "/api/feature/upload-batch": _object(modelId=TEXT, source=TEXT, features=_list(FEATURE, 1, 128)),
    "/api/vector/new": _object(
        modelId=TEXT,
        layerNumber=INTEGER,
        hookType={"enum": ["hook_resid_pre", "hook_resid_post"]},
        vector=_list(NUMBER, 1, 24576),
        vectorDefaultSteerStrength=_number(-300, 300),
        vectorLabel=TEXT,
    ),
}
"""Path that is posted to -> the JSON schema of its body."""


def fault_of(path: str, values: Any) -> str | None:
    """What is wrong with a body that is posted."""
    if error := next(Draft202012Validator(FORMS[path]).iter_errors(values), None):
        return error.message
    features = values.get("features", []) if path.endswith("upload-batch") else []
    if len({feature["index"] for feature in features}) < len(features):
        return "a feature twice"
    texts = (text for feature in features for text in feature["activations"])
    return None if all(len(text["tokens"]) == len(text["values"]) for text in texts) else "as many values as tokens"


@contextmanager
def serving(root: Path) -> Iterator[Neuronpedia]:
    """The server, in a thread, over a tree of exports."""
    site = Neuronpedia(root)

    class Served(Handler):
        def serve(self) -> None:
            site.serve(self)

    with serving_with(Served) as site.address:
        yield site


def read_batch(path: Path) -> list[dict[str, Any]]:
    """The lines of a batch."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).split(b"\n") if line]


def write_batch(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Put other lines in a batch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))


def examples_of(feature: int, n: int = 3) -> list[dict[str, Any]]:
    """Some max-activating examples, largest first."""
    return [an_example(f"f{feature}-{rank}", 9.5 - rank - feature % 7 / 8, ["▁the", f"▁t{feature}", "."], 1) for rank in range(n)]


def an_example(text_id: str, value: float, context: Sequence[str], at: int) -> dict[str, Any]:
    """An example as the table holds it, its rank aside."""
    return {
        "rank": 0,
        "text_id": text_id,
        "token_index": at,
        "token": context[at],
        "token_id": None,
        "max_value": value,
        "context": list(context),
    }


def table(features: Mapping[int, Sequence[Mapping[str, Any]]], layer: int = LAYER, explained: bool = True) -> pl.DataFrame:
    """The MAX_ACTIVATING_EXAMPLES rows that Neuronpedia's route should give for features with these max-activating examples (given
    largest first)."""
    rows = [
        {
            "layer": layer,
            "feature": feature,
            "density": 0.25 if examples else 0.0,
            "max_activation": examples[0]["max_value"] if examples else None,
            "histogram_activations": [0.5, 1.5 + feature, 2.5 + feature] if examples else None,
            "histogram_counts": [2 * feature, 1, 3] if examples else None,
            "n_examples": len(examples),
            "examples": [{**example, "rank": rank} for rank, example in enumerate(examples)],
            "explanations": [f"texts about {feature}"] if explained and feature % 5 else [],
            "source": "neuronpedia",
            "reason": None if examples else "no max-activating examples on Neuronpedia",
        }
        for feature, examples in features.items()
    ]
    return pl.DataFrame(rows, schema=MAX_ACTIVATING_EXAMPLES.schema, orient="row")


def keys(features: Iterable[int], layer: int = LAYER) -> pl.DataFrame:
    """The missing keys of features."""
    listed = list(features)
    return pl.DataFrame({"layer": [layer] * len(listed), "feature": listed}, schema=MAX_ACTIVATING_EXAMPLES.key_schema)
