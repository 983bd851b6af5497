"""Published files: downloaded from a loopback server, checked, kept; and what is read out of them."""

import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import Handler, serving_with

from saesteer.settings import Addresses, Experiment, PublishedFeatures, SettingsError, load_experiment
from saesteer.sources import published
from saesteer.sources.download import fetch_published
from saesteer.sources.features import features_of, write_list
from saesteer.sources.http import Policy
from saesteer.sources.published import Published, cached_path, feature_list, instructions, literal_strings, zipped_lines
from saesteer.sources.resolve_features import resolve_features

ROOT = Path(__file__).parents[1]
LIST = json.dumps({"2": [30, 4, 5], "6": [7]}).encode()


@dataclass
class Server:
    """Gives `body` to every path, after as many faults as `statuses` holds; the first time only `cut` bytes of it."""

    body: bytes
    statuses: tuple[int, ...] = ()
    cut: int | None = None
    requests: Counter[str] = field(default_factory=Counter)
    address: str = ""

    def serve(self, request: Handler) -> None:
        self.requests[request.path] += 1
        n = self.requests.total()
        request.reply(self.statuses[n - 1] if n <= len(self.statuses) else 200, self.body, cut=self.cut if n == 1 else None)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Published:
    """A file of the registry whose bytes are LIST."""
    file = Published("someone/something", "c0ffee", "data/features.json", hashlib.sha256(LIST).hexdigest())
    monkeypatch.setitem(published.PUBLISHED, "test/list", file)
    return file


@pytest.fixture
def serve() -> Iterator:
    with ExitStack() as stack:

        def start(*args, **kwargs) -> Server:
            server = Server(*args, **kwargs)
            server.address = stack.enter_context(serving_with(type("Served", (Handler,), {"serve": lambda request: server.serve(request)})))
            return server

        yield start


def test_a_file_is_downloaded_once_by_its_pinned_address(serve, listed: Published, tmp_path: Path) -> None:
    server = serve(LIST)
    path = fetch_published("test/list", server.address, tmp_path)
    assert path == tmp_path / "published/test/list.json" == cached_path("test/list", tmp_path)
    assert path.read_bytes() == LIST
    assert fetch_published("test/list", server.address, tmp_path) == path
    assert dict(server.requests) == {"/someone/something/c0ffee/data/features.json": 1}


@pytest.mark.parametrize("faults", [{"statuses": (500, 429, 503)}, {"cut": 7}])
def test_faults_that_pass_are_tried_again(serve, listed: Published, tmp_path: Path, faults: dict) -> None:
    quick = Policy(attempts=5, first_wait=0.01, longest_wait=0.1)
    assert fetch_published("test/list", serve(LIST, **faults).address, tmp_path, quick).read_bytes() == LIST


def test_other_bytes_are_refused_and_not_stored(serve, listed: Published, tmp_path: Path) -> None:
    server = serve(b"<html>not what was asked for</html>")
    with pytest.raises(SettingsError, match=f"has the SHA-256 .*, not the pinned {listed.sha256}: it is refused"):
        fetch_published("test/list", server.address, tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_a_file_without_a_digest_is_not_taken_on_trust(serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(published.PUBLISHED, "test/list", Published("someone/something", "c0ffee", "data/features.json", None))
    address, digest = serve(LIST).address, hashlib.sha256(LIST).hexdigest()
    with pytest.raises(SettingsError, match=rf"refused, nothing was stored.*`published_digests: {{test/list: {digest}}}`"):
        fetch_published("test/list", address, tmp_path)
    assert not list(tmp_path.rglob("*.*"))
    kept = fetch_published("test/list", address, tmp_path, stated={"test/list": digest})
    assert kept.read_bytes() == LIST
    for stated, words in (({}, "the project knows none"), ({"test/list": "0" * 64}, "not the pinned 000")):
        with pytest.raises(SettingsError, match=words):
            fetch_published("test/list", address, tmp_path, stated=stated)


def test_a_file_that_was_changed_is_fetched_again(serve, listed: Published, tmp_path: Path) -> None:
    server = serve(LIST)
    fetch_published("test/list", server.address, tmp_path).write_bytes(b"{}")
    assert fetch_published("test/list", server.address, tmp_path).read_bytes() == LIST


def test_what_cannot_be_had_is_said(serve, listed: Published, tmp_path: Path) -> None:
    server = serve(LIST, statuses=(404,))
    with pytest.raises(SettingsError, match=r"test/list: http.*could not be downloaded.*404.*put the file at .*test/list.json"):
        fetch_published("test/list", server.address, tmp_path)
    with pytest.raises(SettingsError, match=r"no published file 'p1/gemma'; known: p1/gemma_2b"):
        fetch_published("p1/gemma", server.address, tmp_path)


def experiment(tmp_path: Path) -> Experiment:
    features = PublishedFeatures(kind="published", key="test/list", list=tmp_path / "list.json")
    return load_experiment("micro", ROOT / "config/experiments").model_copy(update={"features": features})


def test_a_published_set_is_resolved_into_a_list(serve, listed: Published, tmp_path: Path) -> None:
    chosen = experiment(tmp_path)
    with pytest.raises(SettingsError, match=r"there is no .*list.json; `saesteer features EXPERIMENT` makes it"):
        features_of(chosen, 2)
    resolve_features(chosen, Addresses(github=serve(LIST).address), tmp_path / "downloads")
    assert features_of(chosen, 2) == (4, 5, 30)
    assert features_of(chosen, 6) == (7,)
    written = json.loads((tmp_path / "list.json").read_text())
    assert written["source"] == f"someone/something@c0ffee/data/features.json, SHA-256 {listed.sha256}"


def test_a_list_that_was_edited_or_answers_another_question_is_refused(listed: Published, tmp_path: Path) -> None:
    chosen = experiment(tmp_path)
    path = tmp_path / "list.json"
    write_list(path, chosen.features, "somewhere", {2: [4], 6: [7]})
    assert features_of(chosen, 2) == (4,)
    path.write_text(path.read_text().replace("4", "5", 1))
    with pytest.raises(SettingsError, match="answers another question, or was edited"):
        features_of(chosen, 2)
    path.write_text('{"2": [4]}')  # in P1's own form
    with pytest.raises(SettingsError, match="is no list that `saesteer features` wrote"):
        features_of(chosen, 2)
    write_list(path, chosen.features.model_copy(update={"key": "p1/gemma_2b"}), "somewhere", {2: [4], 6: [7]})
    with pytest.raises(SettingsError, match="answers another question, or was edited"):
        features_of(chosen, 2)


@pytest.mark.parametrize("text", ["[1, 2]", '{"a": [1]}', '{"1": ["x"]}', "<html>"])
def test_other_forms_of_lists_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(SettingsError, match="is no feature list of the form"):
        feature_list(tmp_path / "list.json")


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1), min_size=1))
def test_strings_of_a_program_are_read_and_never_run(tmp_path_factory: pytest.TempPathFactory, strings: list[str]) -> None:
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(
        f"import nothing_there\nraise SystemExit\nother = ['x']\nprefixes = {strings!r}\n", encoding="utf-8", errors="surrogatepass"
    )
    assert literal_strings(path, "prefixes") == strings


def test_a_program_without_the_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("prefixes = [1, 2]\n")
    with pytest.raises(SettingsError, match="assigns no list of strings to 'prefixes'"):
        literal_strings(tmp_path / "program.py", "prefixes")


def test_instructions_are_lines_and_stand_once(tmp_path: Path) -> None:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps([{"instruction": " Say\nhello. ", "output": "x"}, {"instruction": "Say hello."}, {"instruction": "Go."}]))
    assert instructions(path) == ["Say hello.", "Go."]
    for other in ('["Say hello."]', '{"instruction": "Go."}', '[{"prompt": "Go."}]'):
        path.write_text(other)
        with pytest.raises(SettingsError, match="is no JSON list of objects with a key `instruction`"):
            instructions(path)


def test_lines_of_zipped_texts(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("corpus/b.txt", "two\n\n-- 12\ntwo\n")
        archive.writestr("corpus/a.txt", "one\xe9\n".encode("latin-1"))
        archive.writestr("corpus/README", "not a text")
    (tmp_path / "corpus.zip").write_bytes(buffer.getvalue())
    assert zipped_lines(tmp_path / "corpus.zip")["text"].to_list() == ["one\ufffd", "two"]


def test_the_papers_lists_that_git_keeps_are_those_of_the_registry() -> None:
    for name, n in {"gemma-2-2b": 2600, "gemma-2-9b": 4200, "gemma-2-9b-it-concept500": 1000}.items():
        shipped = load_experiment(name, ROOT / "config/experiments")
        kept = shipped.model_copy(update={"features": shipped.features.model_copy(update={"list": ROOT / shipped.features.list})})
        assert sum(len(features_of(kept, layer)) for layer in kept.layers) == n
        assert str(published.published_file(shipped.features.key).sha256) in (ROOT / shipped.features.list).read_text()
