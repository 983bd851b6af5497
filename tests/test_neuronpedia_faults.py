"""What can go wrong between here and Neuronpedia: nothing wrong is stored, everything else is, and a summary says what is missing."""

import gzip
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import polars as pl
import pytest
from loopback import Handler
from neuronpedia_server import (
    HTML,
    LAYER,
    QUICK,
    SOURCE,
    Fault,
    Neuronpedia,
    cut,
    examples_of,
    instead,
    keys,
    page,
    read_batch,
    serving,
    status,
    table,
    write_batch,
)
from polars.testing import assert_frame_equal

from saesteer.exchange.neuronpedia import write_export
from saesteer.settings import NeuronpediaExamples, SettingsError
from saesteer.sources.http import FetchError, Policy
from saesteer.sources.neuronpedia.fetch import max_activating_examples
from saesteer.sources.neuronpedia.sources import Source

WANTED = [1, 2, 3, 1100, 1101]
ROWS = table({feature: examples_of(feature) for feature in [*range(10), *range(1100, 1110)]})
API = f"/api/feature/{SOURCE}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Neuronpedia]:
    write_export(ROWS, SOURCE, tmp_path / "bucket")
    with serving(tmp_path / "bucket") as server:
        yield server


def fetch(
    site: Neuronpedia, downloads: Path, route: str, features: list[int] = WANTED, policy: Policy = QUICK, source: Source = SOURCE
) -> tuple[pl.DataFrame, str]:
    """The rows that came, and what the summary says of others ("" for nothing missing)."""
    settings = NeuronpediaExamples.model_validate({"kind": "neuronpedia", "route": route})
    frames, summary = [ROWS.clear()], ""
    try:
        for frame in max_activating_examples(site.addresses, {LAYER: source}, keys(features), settings, downloads, policy):
            frames.append(frame)  # noqa: PERF402 (what came before the error counts)
    except FetchError as error:
        summary = str(error)
    return pl.concat(frames).sort("feature"), summary


def expected(*features: int) -> pl.DataFrame:
    return ROWS.filter(pl.col("feature").is_in(features))


def on_disk(downloads: Path) -> list[str]:
    """The files below a folder."""
    return sorted(path.name for path in downloads.rglob("*") if path.is_file())


def shortened(body: bytes) -> bytes:
    """Most of a gzip file: it decodes, but not to its end."""
    return body[:-12]


def lines_of(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """A whole gzip file with other lines."""
    return lambda body: gzip.compress(change(gzip.decompress(body)))


soon = format_datetime(datetime.now(UTC) - timedelta(seconds=5), usegmt=True)
PASSING: dict[str, Fault] = {
    "429": status(429),
    "429, seconds": status(429, Retry_After="0"),
    "429, a date": status(429, Retry_After=soon),
    "429, nonsense": status(429, Retry_After="later"),
    "500": status(500),
    "503": status(503),
    "a page": page,
    "cut": cut,
    "nothing": instead(lambda _: b""),
    "half": instead(lambda body: body[: len(body) // 2]),
}
IN_THE_BUCKET: dict[str, Callable[[bytes], bytes]] = {
    "truncated": shortened,
    "checksum": lambda body: body[:-8] + b"\0" * 8,
    "empty": lambda _: b"",
    "a page": lambda _: HTML,
    "half a line": lines_of(lambda text: text[:-9]),
    "no object": lines_of(lambda _: b"[]\n"),
    "another model": lines_of(lambda text: text.replace(b"tiny-model", b"huge-model", 1)),
    "another source": lines_of(lambda text: text.replace(b"3-tiny-res-1k", b"4-tiny-res-1k", 1)),
    "no source": lines_of(lambda text: text.replace(b"3-tiny-res-1k", b"/", 1)),
    "NaN": lines_of(lambda text: text.replace(b"null", b"NaN", 1)),
    "no index": lines_of(lambda text: text.replace(b'"index"', b'"inedx"', 1)),
    "no UTF-8": lines_of(lambda text: text.replace(b"tiny-model", b"\xff", 1)),
}
OF_ANSWERS: dict[str, Fault] = {
    "another feature": instead(lambda body: body.replace(b'"index": "2"', b'"index": "3"')),
    "no object": instead(lambda _: b"[]"),
    "max-activating examples no list": instead(lambda body: body.replace(b'"activations": [', b'"activations": 3, "was": [')),
    "NaN": instead(lambda body: body.replace(b"null", b"NaN", 1)),
    "nested": instead(lambda _: b"[" * 100_000),
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("route", ["bulk", "api"])
def test_a_passing_fault_is_met_by_asking_again(site: Neuronpedia, tmp_path: Path, route: str, fault: str) -> None:
    kinds = ("features", "activations", "explanations")
    paths = [f"{API}/2"] if route == "api" else ["/", *(site.key(kind, 0) for kind in kinds)]
    site.faults = {path: [PASSING[fault], PASSING[fault]] for path in paths}
    rows, summary = fetch(site, tmp_path / "down", route)
    assert summary == ""
    assert_frame_equal(rows, expected(*WANTED), check_exact=True)
    assert [site.requests[path] for path in paths] == [3] * len(paths)


@pytest.mark.parametrize("fault", [*PASSING, "a line less"])
def test_a_batch_that_does_not_come_whole_is_not_stored(site: Neuronpedia, tmp_path: Path, fault: str) -> None:
    key = site.key("activations", 0)
    a_line_less = instead(lines_of(lambda text: text[: text.index(b"\n") + 1]))  # a gzip file in order, but not the listed one
    site.forever[key] = {**PASSING, "a line less": a_line_less}[fault]
    rows, summary = fetch(site, tmp_path / "down", "bulk")
    assert_frame_equal(rows, expected(1100, 1101), check_exact=True)
    assert re.search(r"3 features .* not stored", summary)
    assert "3 (1, 2, 3): activations batch 0: " in summary
    assert f"({QUICK.attempts} attempts)" in summary
    assert on_disk(tmp_path / f"down/neuronpedia/v1/{SOURCE}/activations") == ["batch-1.jsonl.gz"]
    del site.forever[key]
    rows, summary = fetch(site, tmp_path / "down", "bulk", [1, 2, 3])
    assert (summary, site.requests[site.key("activations", 1)]) == ("", 1)
    assert_frame_equal(rows, expected(1, 2, 3), check_exact=True)


@pytest.mark.parametrize("fault", IN_THE_BUCKET)
def test_a_batch_that_is_damaged_in_the_bucket_is_not_stored(site: Neuronpedia, tmp_path: Path, fault: str) -> None:
    """Its length is the listed one, and what it holds decodes in part."""
    path = site.batch("activations")
    path.write_bytes(IN_THE_BUCKET[fault](path.read_bytes()))
    rows, summary = fetch(site, tmp_path / "down", "bulk")
    assert_frame_equal(rows, expected(1100, 1101), check_exact=True)
    assert "3 (1, 2, 3): activations batch 0: damaged on arrival (after " in summary
    assert on_disk(tmp_path / f"down/neuronpedia/v1/{SOURCE}/activations") == ["batch-1.jsonl.gz"]


REFUSED: dict[str, tuple[Fault, str]] = {
    "403": (status(403), "NEURONPEDIA_API_KEY"),
    "308": (status(308, Location="http://elsewhere/"), "moved to http://elsewhere/"),
    "418": (status(418), "418"),
    "404, a page": (status(404), "404 Not Found, and not in the API's own words"),
}
"""What another attempt would get too, and what is said of it."""


@pytest.mark.parametrize("fault", [*PASSING, *OF_ANSWERS, *REFUSED])
def test_a_feature_that_the_api_fails_on_is_not_stored(site: Neuronpedia, tmp_path: Path, fault: str) -> None:
    site.forever[f"{API}/2"], words = REFUSED.get(fault) or ({**PASSING, **OF_ANSWERS}[fault], f"({QUICK.attempts} attempts)")
    rows, summary = fetch(site, tmp_path, "api")
    assert_frame_equal(rows, expected(1, 3, 1100, 1101), check_exact=True)
    assert f"1 features could not be downloaded and are not stored:\n  {SOURCE}: 1 (2): " in summary
    assert words in summary
    assert site.requests[f"{API}/2"] == (1 if fault in REFUSED else QUICK.attempts)


@pytest.mark.parametrize("kind", ["features", "activations", "explanations"])
def test_a_batch_missing_in_the_listing_is_named(site: Neuronpedia, tmp_path: Path, kind: str) -> None:
    path = site.batch(kind)
    write_batch(path.with_name("batch-1.jsonl.gz"), read_batch(path.with_name("batch-1.jsonl.gz")) if kind == "activations" else [])
    site.hidden = {site.key(kind, 0)}
    rows, summary = fetch(site, tmp_path / "down", "bulk")
    lost = [1, 2, 3] if kind == "activations" else WANTED
    assert f"{kind} batch 0 is missing in the listing of exports; route: api" in summary
    assert rows["feature"].to_list() == sorted(set(WANTED) - set(lost))
    assert site.api_requests() == 0


def test_a_misspelt_source_is_named_and_is_not_a_source_without_features(site: Neuronpedia, tmp_path: Path) -> None:
    for route, words in (
        ("bulk", "no exports of {} are listed: check the source's name"),
        ("api", "neither these features nor feature 0 of {}"),
    ):
        rows, summary = fetch(site, tmp_path, route, source=Source("tiny-model", "3-tiny-res-2k"))
        assert rows.is_empty()
        assert words.format("tiny-model/3-tiny-res-2k") in summary
    rows, summary = fetch(site, tmp_path, "api", [5000])
    assert (rows["reason"].to_list(), summary) == (["not on Neuronpedia"], "")
    site.forever[f"{API}/0"] = status(500)
    rows, summary = fetch(site, tmp_path, "api", [5000])
    assert rows.is_empty()
    assert "could not be found out: 500" in summary


def test_the_servers_wish_to_wait_is_heard_up_to_a_limit(site: Neuronpedia, tmp_path: Path) -> None:
    site.faults[f"{API}/2"] = [status(429, Retry_After="1000")]
    patient = replace(QUICK, longest_wait=0.4)
    start = datetime.now(UTC)
    rows, _ = fetch(site, tmp_path, "api", [2], patient)
    assert rows.height == 1
    assert 0.4 <= (datetime.now(UTC) - start).total_seconds() < 3


def test_after_many_failures_in_a_row_no_more_is_asked(site: Neuronpedia, tmp_path: Path) -> None:
    for feature in range(10):
        site.forever[f"{API}/{feature}"] = status(500)
    rows, summary = fetch(site, tmp_path, "api", list(range(10)), replace(QUICK, give_up_after=3, concurrency=1))
    assert rows.is_empty()
    assert "3 (0, 1, 2): 500" in summary
    assert "7 (3, 4, 5, 6, 7, ...): not asked for, since 3 features in a row could not be had" in summary
    assert site.api_requests() == 3 * QUICK.attempts


@pytest.mark.parametrize("damage", [shortened, lambda body: b"", lambda body: body[:20] + bytes(4) + body[24:]])
def test_a_batch_damaged_on_disk_is_named_and_fetched_again(
    site: Neuronpedia, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    fetch(site, tmp_path / "down", "bulk")
    before = site.downloads()
    path = tmp_path / "down/neuronpedia" / site.key("activations", 1).lstrip("/")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    rows, summary = fetch(site, tmp_path / "down", "bulk")
    assert summary == ""
    assert_frame_equal(rows, expected(*WANTED), check_exact=True)
    assert site.downloads() == before + 1
    assert path.read_bytes() == whole
    assert f"{path} is damaged" in caplog.text
    path.write_bytes(damage(whole))
    site.forever[site.key("activations", 1)] = status(500)
    rows, summary = fetch(site, tmp_path / "down", "bulk")
    assert_frame_equal(rows, expected(1, 2, 3), check_exact=True)
    assert not path.exists()


def test_what_was_downloaded_is_not_downloaded_again(site: Neuronpedia, tmp_path: Path) -> None:
    settings = NeuronpediaExamples.model_validate({"kind": "neuronpedia", "route": "bulk"})
    few = replace(QUICK, concurrency=1)
    frames = max_activating_examples(site.addresses, {LAYER: SOURCE}, keys(WANTED), settings, tmp_path / "down", few)
    first = next(frames)
    frames.close()  # as a stopped job does
    kept = on_disk(tmp_path / "down")
    assert all(name.startswith("batch-") for name in kept)
    rows, summary = fetch(site, tmp_path / "down", "bulk")
    assert summary == ""
    assert_frame_equal(rows, expected(*WANTED), check_exact=True)
    assert first["feature"].is_in(rows["feature"].to_list()).all()
    assert set(site.requests.values()) - {site.requests["/"]} <= {1}
    site.requests.clear()
    fetch(site, tmp_path / "down", "bulk")
    assert site.downloads() == 0


JOB = """
import faulthandler, sys
from pathlib import Path

from neuronpedia_server import LAYER, QUICK, SOURCE, keys
from saesteer.sources.neuronpedia.fetch import max_activating_examples
from saesteer.settings import Addresses, NeuronpediaExamples
from saesteer.workflow.job import Stop

faulthandler.dump_traceback_later(20)  # a job that hangs says where
stop = Stop()
addresses = Addresses(neuronpedia=sys.argv[1], neuronpedia_exports=sys.argv[1])
settings = NeuronpediaExamples(kind="neuronpedia", route="bulk")
try:
    for _ in max_activating_examples(addresses, {LAYER: SOURCE}, keys([1, 2, 3, 1100, 1101]), settings, Path(sys.argv[2]), QUICK):
        stop.check()  # as the script of a step: the exit may come where Python ignores it
except BaseException:
    stop.check()
    raise
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_job_told_to_stop_stops_and_leaves_whole_batches(site: Neuronpedia, tmp_path: Path, number: signal.Signals, code: int) -> None:
    def half_then_nothing(request: Handler, body: bytes) -> None:
        cut(request, body)
        job.send_signal(number)
        job.wait(50)

    site.faults[site.key("activations", 0)] = [half_then_nothing]
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parent / 'src'}"}
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen([sys.executable, "-c", JOB, site.address, str(tmp_path / "down")], env=environment, stderr=log)
        try:
            exit_code = job.wait(60)
        finally:
            job.kill()
    assert exit_code == code, (tmp_path / "log").read_text()
    assert on_disk(tmp_path / "down")
    for path in (tmp_path / "down").rglob("*.*"):
        assert path.name.startswith("batch-")
        assert gzip.decompress(path.read_bytes())
    rows, summary = fetch(site, tmp_path / "down", "bulk")
    assert summary == ""
    assert_frame_equal(rows, expected(*WANTED), check_exact=True)
    assert site.requests[site.key("features", 0)] == 1


@pytest.mark.parametrize("route", ["bulk", "api"])
def test_few_requests_are_under_way_at_once(tmp_path: Path, route: str) -> None:
    features = [n * 1024 + 1 for n in range(12)]
    write_export(table({feature: examples_of(feature) for feature in features}), SOURCE, tmp_path / "bucket")
    with serving(tmp_path / "bucket") as site:
        site.delay = 0.1
        fetch(site, tmp_path / "down", route, features, replace(QUICK, concurrency=3))
        assert site.most_at_once == 3


def test_the_key_travels_to_the_api_only_and_is_never_told(
    site: Neuronpedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "sk-secret ")
    caplog.set_level("DEBUG")
    site.forever[f"{API}/2"] = status(401)
    site.faults[f"{API}/1"] = [status(500)]
    _, summary = fetch(site, tmp_path / "down", "api", [1, 2])
    fetch(site, tmp_path / "down", "bulk", [1, 2, 7000])
    sent = {(entry["path"].split("/")[1], entry.get("x-api-key")) for entry in site.headers}
    assert sent == {("api", "sk-secret"), ("", None), ("v1", None)}
    assert "sk-secret" not in caplog.text + summary
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "sk-\x01secret")
    with pytest.raises(SettingsError, match="NEURONPEDIA_API_KEY holds characters") as caught:
        fetch(site, tmp_path / "down", "api", [1])
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_and_an_address_that_is_none(tmp_path: Path) -> None:
    write_export(ROWS, SOURCE, tmp_path / "bucket")
    with serving(tmp_path / "bucket") as gone:
        pass
    for route in ("api", "bulk"):
        rows, summary = fetch(gone, tmp_path / "down", route)
        assert rows.is_empty()
        assert "connection failed or cut (ConnectError) (3 attempts)" in summary
    gone.address = "ftp://nowhere"
    assert "see `addresses` in the configuration" in fetch(gone, tmp_path, "api", [1])[1]
