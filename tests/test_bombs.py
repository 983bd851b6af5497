"""A few bytes from elsewhere that unpack to very many: refused at a ceiling, and memory stays low."""

import gzip
import re
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from judge_server import Fault as JudgeFault
from judge_server import judge_server
from judge_texts import TEXTS, asker, generations, judged
from loopback import Handler, serving_with
from neuronpedia_server import KEY, LAYER, QUICK, SOURCE, Neuronpedia, examples_of, instead, keys, serving, table

from saesteer.core.errors import SaesteerError
from saesteer.engine.sae_read import npz_shape
from saesteer.exchange.imported import imported_texts
from saesteer.exchange.neuronpedia import write_export
from saesteer.judge.answers import JudgeError
from saesteer.settings import NeuronpediaExamples, SettingsError
from saesteer.sources.download import fetch_published
from saesteer.sources.neuronpedia.fetch import max_activating_examples
from saesteer.sources.neuronpedia.upload import Upload, send_all
from saesteer.sources.published import zipped_lines
from saesteer.sources.resolve_features import nearest_features

UNPACKED = 2**28
MOST_MEMORY = 2**27
"""Of an answer 32 MiB are read, and copied once."""
ANSWER = r"answers with more than 32 MiB \(unpacked\), so it was not read to its end"


def zeros(n: int) -> bytes:
    """Gzip of n zero bytes, made a piece at a time."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(n // 2**20)), packer.flush()])


BOMB = zeros(UNPACKED)
NESTED = gzip.compress(BOMB)


def bomb(body: bytes, coding: str, code: int = 200) -> Callable[[Handler, bytes], None]:
    return lambda request, _: request.reply(code, body, {"Content-Encoding": coding})


@pytest.fixture
def low_memory() -> Iterator[None]:
    """What Python's own objects take at the most."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_MEMORY


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Neuronpedia]:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    write_export(table({feature: examples_of(feature) for feature in range(4)}), SOURCE, tmp_path / "bucket")
    with serving(tmp_path / "bucket") as server:
        yield server


def fetched(site: Neuronpedia, folder: Path, route: str) -> Any:
    settings = NeuronpediaExamples.model_validate({"kind": "neuronpedia", "route": route})
    return list(max_activating_examples(site.addresses, {LAYER: SOURCE}, keys([1]), settings, folder, QUICK))


LIST = "/api/list/new-with-features"
FEATURE = f"/api/feature/{SOURCE}/1"
ANSWERS = {
    FEATURE: lambda site, folder: fetched(site, folder, "api"),
    "/": lambda site, folder: fetched(site, folder, "bulk"),
    "/api/explanation/search": lambda site, _: nearest_features(site.addresses, SOURCE, "texts", 1, QUICK),
    LIST: lambda site, folder: list(
        send_all(site.address, [Upload("a list", LIST, {"name": "one", "description": "", "features": []})], folder, QUICK)
    ),
}


@pytest.mark.usefixtures("low_memory")
@pytest.mark.parametrize(
    ("path", "fault"),
    [
        (FEATURE, bomb(BOMB, "gzip")),
        (FEATURE, bomb(NESTED, "gzip, gzip")),
        (FEATURE, bomb(BOMB, "gzip", 404)),
        (FEATURE, lambda request, _: request.reply(200, bytes(2**26))),
        ("/", bomb(BOMB, "gzip")),
        ("/api/explanation/search", bomb(BOMB, "gzip")),
        (LIST, bomb(BOMB, "gzip")),
    ],
)
def test_an_answer_is_read_to_a_ceiling(site: Neuronpedia, tmp_path: Path, path: str, fault: Callable[[Handler, bytes], None]) -> None:
    site.forever[path] = fault
    with pytest.raises(SaesteerError, match=re.escape(site.address + path) + r"\S* " + ANSWER):
        ANSWERS[path](site, tmp_path / "downloads")
    assert site.requests[path] == 1
    assert len(list((tmp_path / "downloads").rglob("*.json"))) == (path == LIST)  # what may have arrived is not sent again


@pytest.mark.usefixtures("low_memory")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: gzip.compress((b" " * 1023 + b"\n") * 2**10), "it unpacks to more than 200 times its size, as no batch of"),
        (lambda _: BOMB, "damaged on arrival"),
    ],
)
def test_a_batch_is_read_to_a_ceiling(site: Neuronpedia, tmp_path: Path, change: Callable[[bytes], bytes], words: str) -> None:
    path = site.batch("features")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SaesteerError, match=words):
        fetched(site, tmp_path / "downloads", "bulk")
    assert not list((tmp_path / "downloads").rglob("features/*"))


def test_no_more_bytes_are_received_than_are_listed(site: Neuronpedia, tmp_path: Path) -> None:
    size = site.batch("features").stat().st_size
    site.forever[site.key("features", 0)] = instead(lambda body: body + bytes(2**24))
    with pytest.raises(SaesteerError, match=f"more bytes came than the {size} that are listed"):
        fetched(site, tmp_path, "bulk")


def test_a_published_file_is_read_to_a_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saesteer.sources.download.LARGEST_FILE", 2**25)
    served = type("Served", (Handler,), {"serve": lambda request: bomb(BOMB, "gzip")(request, b"")})
    with serving_with(served) as address, pytest.raises(SettingsError, match=f"p1/gemma_2b: http://127.*{ANSWER}"):
        fetch_published("p1/gemma_2b", address, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_judges_answer_is_read_to_a_ceiling(tmp_path: Path) -> None:
    with judge_server() as judge:
        judge.faults.extend([JudgeFault(status=200, body=BOMB, headers={"Content-Encoding": "gzip"})] * 9)
        with pytest.raises(JudgeError, match=ANSWER):
            judged(generations(TEXTS[:1]), asker(judge, concurrency=1), tmp_path)


def zipped(path: Path, name: str) -> Path:
    """An archive with an entry of 256 MB, all zero."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive, archive.open(name, "w") as entry:
        if name.endswith(".npy"):
            np.lib.format.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False, "shape": (2**13, 2**13)})
        for _ in range(2**8):
            entry.write(bytes(2**20))
    return path


@pytest.mark.usefixtures("low_memory")
@pytest.mark.parametrize(
    ("read", "name"),
    [
        (zipped_lines, "corpus.txt"),
        (npz_shape, "W_enc.npy"),
    ],
)
def test_an_archive_says_before_what_it_unpacks_to(tmp_path: Path, read: Callable[[Path], Any], name: str) -> None:
    path = zipped(tmp_path / "archive.zip", name)
    with pytest.raises(SettingsError, match=f"{path}: it unpacks to 256 MiB, more than 200 times its size, so it is not read"):
        read(path)


@pytest.mark.parametrize(
    ("n_rows", "text", "message"),
    [
        (2**21, "t", "holds 2,097,152 rows in [0-9,]+ bytes, as no file of texts does"),
        (2**10, "t" * 2**18, "its texts have 256 MiB, more than 200 times its size"),
    ],
)
def test_a_table_of_more_rows_or_text_than_its_bytes_can_say_is_not_read(tmp_path: Path, n_rows: int, text: str, message: str) -> None:
    path = tmp_path / "texts.parquet"
    row = {"method": "x", "concept": "c", "prompt": "p", "factor": "1", "text": text}
    pl.select(pl.repeat(value, n_rows).alias(name) for name, value in row.items()).write_parquet(path)
    with pytest.raises(SettingsError, match=f"texts.parquet.*{message}"):
        imported_texts(path, 0)


def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "corpus.zip").write_bytes(b"<html>")
    with pytest.raises(SettingsError, match=r"corpus\.zip: it is no zip archive that can be read"):
        zipped_lines(tmp_path / "corpus.zip")
