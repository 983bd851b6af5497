"""Models from a loopback hub: served, from the cache alone, and with everything that can go wrong on the way."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_fakes import random_model
from hub_server import BAD_TOKEN, EXPIRED, FINE_GRAINED, NO_GATED_ACCESS, TOKEN, Hub, serve_hub, use_hub
from small_embedder import write_embedder

from saesteer.sources.embedding_model import text_pooling
from saesteer.sources.http import Policy
from saesteer.sources.hub import HubError, check_access, fetch_model, model_config, model_tokenizer, repo_size

REPO = "tiny/llama"
DEAD = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded model with what such repositories hold besides: pickled and duplicated weights, a README."""
    folder = random_model(tmp_path_factory.mktemp("hub") / "model", "llama", d_model=16, n_layers=2, max_shard_size="30KB")
    for name in ("pytorch_model.bin", "consolidated.safetensors", "original/consolidated.00.pth", "onnx/model.safetensors", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")
    return folder


@pytest.fixture
def hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("saesteer.sources.http.COMMAND", Policy(attempts=5, first_wait=0.01, longest_wait=0.1))
    with serve_hub() as hub:
        use_hub(monkeypatch, hub.url)
        hub.add(REPO, model)
        yield hub


def shards(model: Path) -> list[str]:
    return sorted(path.name for path in model.glob("model-*.safetensors"))


def test_a_model_is_fetched_whole_and_without_pickles(hub: Hub, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="saesteer"):
        fetched = fetch_model(REPO, None, tmp_path)
    assert (fetched.repo, fetched.commit) == (REPO, hub.repos[REPO].branches["main"])
    small = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"}
    assert set(fetched.files) == small | set(shards(model))
    assert len(shards(model)) > 1
    assert fetched.files == {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in fetched.files}
    assert {path.name for path in fetched.folder.rglob("*")} == set(fetched.files)
    assert fetched.folder.is_relative_to(tmp_path / "hub")
    n_bytes = sum((model / name).stat().st_size for name in fetched.files)
    assert repo_size(REPO, None) == n_bytes
    assert fetched.commit in caplog.text
    assert f"{n_bytes} bytes" in caplog.text
    assert not any("original" in path or path.endswith((".bin", ".pth", "README.md")) for _, path, _ in hub.requests)


def test_a_sentence_embedding_model_comes_with_the_file_on_its_pooling(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_embedder(tmp_path / "embedder", ["sea"])
    hub.add("tiny/embedder", folder)
    fetched = fetch_model("tiny/embedder", None, tmp_path)
    assert fetched.files["1_Pooling/config.json"] == hashlib.sha256((folder / "1_Pooling/config.json").read_bytes()).hexdigest()
    assert text_pooling(fetched.folder).mode == "mean"
    use_hub(monkeypatch, DEAD)
    assert fetch_model("tiny/embedder", fetched.commit, tmp_path) == fetched


def test_what_is_in_the_cache_is_not_downloaded_again_nor_needs_a_hub(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_model(REPO, "main", tmp_path)
    n_downloads = sum(path.startswith("/cdn/") for _, path, _ in hub.requests)
    assert fetch_model(REPO, "main", tmp_path) == first
    assert sum(path.startswith("/cdn/") for _, path, _ in hub.requests) == n_downloads
    n_requests = len(hub.requests)
    use_hub(monkeypatch, hub.url, offline=True)
    for revision in ("main", first.commit, None):
        assert fetch_model(REPO, revision, tmp_path) == first
        assert model_config(REPO, revision, tmp_path) == json.loads((model / "config.json").read_text())
    assert len(hub.requests) == n_requests
    use_hub(monkeypatch, DEAD)
    assert fetch_model(REPO, "main", tmp_path) == first


def test_a_tokenizer_is_in_the_cache_without_the_weights(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_tokenizer(REPO, None, tmp_path)
    assert list(folder.glob("*.safetensors*")) == []
    use_hub(monkeypatch, hub.url, offline=True)
    assert model_tokenizer(REPO, None, tmp_path) == folder
    hub.add("tiny/other", {"config.json": b"{}"})
    use_hub(monkeypatch, hub.url)
    with pytest.raises(HubError, match=r"tiny/other has no tokenizer\.json: choose a repository with one"):
        model_tokenizer("tiny/other", None, tmp_path)


def test_an_interrupted_fetch_is_not_taken_for_a_model(hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cache without network: a shard, or a small file that the repository has, is missing."""
    fetched = fetch_model(REPO, "main", tmp_path)
    use_hub(monkeypatch, hub.url, offline=True)
    for name in (shards(model)[1], "generation_config.json"):
        target = (fetched.folder / name).readlink()
        (fetched.folder / name).unlink()
        with pytest.raises(HubError, match=name if "safetensors" in name else "not, or not wholly, in the cache"):
            fetch_model(REPO, "main", tmp_path)
        (fetched.folder / name).symlink_to(target)
    assert fetch_model(REPO, fetched.commit, tmp_path) == fetched


def test_a_pinned_commit_stays_when_main_moves_on(hub: Hub, model: Path, tmp_path: Path) -> None:
    old = hub.repos[REPO].branches["main"]
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    new = hub.add(REPO, files | {"generation_config.json": b'{"temperature": 0.5}'})
    pinned, newest = fetch_model(REPO, old, tmp_path), fetch_model(REPO, None, tmp_path)
    assert (pinned.commit, newest.commit) == (old, new)
    assert (newest.folder / "generation_config.json").read_bytes() == b'{"temperature": 0.5}'
    assert (pinned.folder / "generation_config.json").read_bytes() == files["generation_config.json"]
    changed = {name for name in pinned.files if pinned.files[name] != newest.files[name]}
    assert changed == {"generation_config.json"}
    with pytest.raises(HubError, match=r"has no revision 'v9'.*commits/main"):
        fetch_model(REPO, "v9", tmp_path)


def test_wrong_bytes_are_named_and_not_used(hub: Hub, model: Path, tmp_path: Path) -> None:
    name = shards(model)[0]
    hub.corrupt(name)
    with pytest.raises(HubError, match=rf"{name} has hash .*, but the hub gives it .*; it is not used: delete (\S+) and run") as caught:
        fetch_model(REPO, None, tmp_path)
    hub.wrong.clear()
    Path(str(caught.value).split("delete ")[1].split(" and run")[0]).unlink()
    fetched = fetch_model(REPO, None, tmp_path)
    config = fetched.folder / "config.json"
    config.resolve().write_text(config.read_text().replace("16", "17"))
    with pytest.raises(HubError, match=r"config\.json has hash"):
        fetch_model(REPO, None, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 429])
def test_passing_errors_pass(hub: Hub, model: Path, tmp_path: Path, status: int) -> None:
    hub.fail(r"^/api/models/tiny/llama", status, times=2)
    hub.fail(r"/resolve/.*/config\.json", status)
    hub.fail(r"^/cdn/", 429 if status == 429 else 503)
    assert set(shards(model)) <= set(fetch_model(REPO, None, tmp_path).files)
    assert all(fault.times == 0 for fault in hub.faults)


def test_a_download_that_breaks_off_is_resumed(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.cut(r"^/cdn/", after=1000)
    fetched = fetch_model(REPO, None, tmp_path)
    assert hub.faults[0].times == 0
    assert fetched.files[shards(model)[0]] == hashlib.sha256((model / shards(model)[0]).read_bytes()).hexdigest()


def test_a_gated_repository_says_how_to_get_in(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("meta/gated", model, gated=True)
    for token in (None, "hf_of_someone_else"):
        use_hub(monkeypatch, hub.url, token=token)
        for call in (lambda: fetch_model("meta/gated", None, tmp_path), lambda: check_access("meta/gated")):
            with pytest.raises(
                HubError, match=rf"is gated.*: accept its licence at {hub.url}/meta/gated, then log in with `hf auth login`"
            ):
                call()
    use_hub(monkeypatch, hub.url, token=TOKEN)
    check_access("meta/gated")
    with caplog.at_level(logging.DEBUG):
        fetched = fetch_model("meta/gated", None, tmp_path)
    shown = {path.split("/")[1] for _, path, authorization in hub.requests if authorization == f"Bearer {TOKEN}"}
    assert shown == {"api", "meta"}  # not the host that large files are redirected to
    assert TOKEN not in caplog.text
    assert fetched.commit == hub.repos["meta/gated"].branches["main"]


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (EXPIRED, REPO, rf"the hub at .* answered HTTP 401, {BAD_TOKEN}: .*`hf auth login`.*HF_TOKEN"),
        (FINE_GRAINED, "meta/gated", rf"meta/gated is gated, {re.escape(NO_GATED_ACCESS)}.*a fine-grained token"),
    ],
    ids=["expired", "fine-grained"],
)
def test_what_the_hub_says_of_a_token_is_passed_on(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, repo: str, message: str
) -> None:
    hub.add("meta/gated", model, gated=True)
    use_hub(monkeypatch, hub.url, token=token)
    for call in (lambda: fetch_model(repo, None, tmp_path), lambda: check_access(repo)):
        with pytest.raises(HubError, match=message) as caught:
            call()
        assert "try again later" not in str(caught.value)


def test_a_login_page_in_the_hub_s_place_is_not_taken_for_it(hub: Hub, tmp_path: Path) -> None:
    fetched = fetch_model(REPO, None, tmp_path)
    hub.is_portal = True
    with pytest.raises(HubError, match=rf"{hub.url} cannot be reached .something other than the hub answered, .*log in to the network"):
        check_access(REPO)
    with pytest.raises(HubError, match="log in to the network"):
        fetch_model(REPO, None, tmp_path / "empty")
    assert fetch_model(REPO, None, tmp_path) == fetched  # what is in the cache


def test_what_is_not_there(hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="tiny/none: no such repository at"):
        fetch_model("tiny/none", None, tmp_path)
    with pytest.raises(HubError, match="tiny/none: no such repository at"):
        check_access("tiny/none")
    with pytest.raises(HubError, match="is not the name of a repository"):
        fetch_model("a/b/c", None, tmp_path)
    for url, offline, reason in ((hub.url, True, "HF_HUB_OFFLINE is set"), (DEAD, False, "Connect")):
        use_hub(monkeypatch, url, offline)
        with pytest.raises(HubError, match=rf"tiny/llama at main is not.*{reason}.*`hf download tiny/llama --revision main --cache-dir"):
            fetch_model(REPO, None, tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("config.json", "tokenizer.json", "pytorch_model.bin"), r"weights there: pytorch_model\.bin\); pickled weights are never loaded"),
        (("config.json", "model.safetensors"), "has no tokenizer.json"),
        (("tokenizer.json", "model.safetensors"), "has no config.json"),
        (("config.json", "tokenizer.json", "consolidated.safetensors"), "has neither model.safetensors nor"),
    ],
)
def test_a_repository_without_what_is_needed_is_refused(hub: Hub, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    hub.add("tiny/other", dict.fromkeys(names, b"{}"))
    with pytest.raises(HubError, match=message):
        fetch_model("tiny/other", None, tmp_path)
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


def test_without_symbolic_links_bytes_are_used_but_not_vouched_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetched = fetch_model(REPO, None, tmp_path)
    for name in fetched.files:
        content = (fetched.folder / name).read_bytes()
        (fetched.folder / name).unlink()
        (fetched.folder / name).write_bytes(content)
    use_hub(monkeypatch, hub.url, offline=True)
    with caplog.at_level(logging.WARNING, logger="saesteer"):
        assert fetch_model(REPO, None, tmp_path).files == fetched.files
    assert "does not say which bytes config.json should have" in caplog.text


@pytest.mark.slow
def test_the_environment_is_what_users_set(model: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME in a process of its own: downloaded, then found with the hub gone."""
    fetch = "from saesteer.sources.hub import fetch_model; print(fetch_model('tiny/llama', None, None).folder)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {"HF_HOME": str(tmp_path)}

    def folder(**more: str) -> str:
        command = [sys.executable, "-c", fetch]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    with serve_hub() as hub:
        hub.add(REPO, model)
        downloaded = folder(HF_ENDPOINT=hub.url)
    assert downloaded.startswith(str(tmp_path / "hub"))
    assert folder(HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1") == downloaded
