"""Adoption by itself: on small made-up graphs of files, and Snakemake's records against Snakemake's own reader."""

import hashlib
import importlib.metadata
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_results import RECORD

from saesteer.sharing import dvc_metadata, snakemake_metadata
from saesteer.sharing.commands import SharingError
from saesteer.sharing.provenance import Statement, read_statements, write_statements
from saesteer.sharing.pull import adopt, examine
from saesteer.sharing.snakemake_metadata import drop_record, read_record, write_record


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _name(number: int) -> str:
    return f"data/exp/tables/t{number}.parquet"


Graph = dict[int, set[int]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, set[int], set[int]]:
    """Outputs 0..n-1 with the earlier outputs that each is made from; which were edited, which are missing."""
    n = draw(st.integers(1, 8))
    graph = {i: draw(st.sets(st.integers(0, i - 1), max_size=3)) if i else set() for i in range(n)}
    edited = draw(st.sets(st.integers(0, n - 1), max_size=2))
    missing = draw(st.sets(st.integers(0, n - 1), max_size=2)) - edited
    return graph, edited, missing


def _made_from(graph: Graph, start: int) -> set[int]:
    """Everything that an output is made from, itself included, by the definition."""
    return {start}.union(*(_made_from(graph, parent) for parent in graph[start]))


def _publish(folder: Path, graph: Graph) -> None:
    contents = {_name(i): f"published {i}".encode() for i in graph}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    statements = [
        Statement(_name(i), _sha256(contents[_name(i)]), {_name(p): _sha256(contents[_name(p)]) for p in parents}, RECORD)
        for i, parents in graph.items()
    ]
    write_statements(folder, "exp", statements)


@settings(max_examples=25)
@given(graphs())
def test_adopted_is_what_is_unchanged_and_made_from_unchanged_things(case: tuple[Graph, set[int], set[int]]) -> None:
    graph, edited, missing = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _publish(folder, graph)
        for i in edited:
            (folder / _name(i)).write_bytes(b"tampered with")
        for i in missing:
            (folder / _name(i)).unlink()
        examination = examine(folder, "exp", [_name(i) for i in graph])
        adopt(folder, examination)
        expected = {i for i in graph if not _made_from(graph, i) & (edited | missing)}
        assert set(examination.agreeing) == {_name(i) for i in expected}
        assert set(examination.refused) == {_name(i) for i in graph.keys() - expected}
        assert {_name(i) for i in graph if (folder / _name(i)).exists()} == set(examination.agreeing)
        assert {_name(i) for i in graph if read_record(folder, _name(i))} == set(examination.agreeing)


def test_what_stays_with_its_maker_is_asked_for_once_something_is_computed(tmp_path: Path) -> None:
    """A model that is in no remote: without it results are adopted, as made of what is here; another one in its place is no reason to
    believe them."""
    model, pin, table = "my/model/model.safetensors", "data/exp/pins/model.json", "data/exp/tables/features.parquet"
    for name in (pin, table):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"published")
    made = _sha256(b"published")
    statements = [
        Statement(pin, made, {model: _sha256(b"weights")}, RECORD | {"input": [model]}),
        Statement(table, made, {pin: made, model: _sha256(b"weights")}, RECORD | {"input": [pin, model]}),
    ]
    write_statements(tmp_path, "exp", statements)
    examination = examine(tmp_path, "exp", ())
    adopt(tmp_path, examination)
    assert (set(examination.agreeing), examination.refused) == ({pin, table}, {})
    assert [read_record(tmp_path, name)["input"] for name in (pin, table)] == [[], [pin]]
    (tmp_path / model).parent.mkdir(parents=True)
    for content, refused in ((b"weights", set()), (b"others", {pin, table})):
        (tmp_path / model).write_bytes(content)
        assert set(examine(tmp_path, "exp", ()).refused) == refused


def test_of_several_statements_the_one_that_agrees_with_the_disk_counts(tmp_path: Path) -> None:
    """As after a merge of two branches: both statements are there, the files are one branch's."""
    for name, data in {"a.txt": b"ours", "data/exp/tables/t.parquet": b"our table"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    ours = Statement("data/exp/tables/t.parquet", _sha256(b"our table"), {"a.txt": _sha256(b"ours")}, RECORD | {"params": ["'ours'"]})
    theirs = Statement("data/exp/tables/t.parquet", _sha256(b"their table"), {"a.txt": _sha256(b"theirs")}, RECORD)
    write_statements(tmp_path, "exp", [theirs, ours])
    adopt(tmp_path, examine(tmp_path, "exp", ()))
    assert (read_record(tmp_path, "data/exp/tables/t.parquet") or {})["params"] == ["'ours'"]


def test_adoption_does_not_touch_what_a_cache_links_to(tmp_path: Path) -> None:
    cached = tmp_path / "cache/object"
    cached.parent.mkdir()
    cached.write_bytes(b"published 0")
    _publish(tmp_path, {0: set()})
    output = tmp_path / _name(0)
    output.unlink()
    output.hardlink_to(cached)
    before = cached.stat().st_mtime_ns
    adopt(tmp_path, examine(tmp_path, "exp", ()))
    assert output.stat().st_nlink == 1
    assert output.read_bytes() == b"published 0"
    assert cached.stat().st_mtime_ns == before


@pytest.mark.parametrize("output", ["data/tiny/generations/layers_00-03.json", "figures/é/" + "long" * 150 + ".pdf"])
def test_snakemake_reads_the_records_that_we_write(tmp_path: Path, output: str) -> None:
    from snakemake.persistence.file import FilePersistence

    (tmp_path / "input.txt").write_bytes(b"small")
    write_record(tmp_path, output, RECORD | {"input": ["input.txt"]}, {"input.txt": _sha256(b"small")}, 1234.5)
    snakemake = FilePersistence(path=tmp_path / ".snakemake")
    record = snakemake._read_record(output)
    assert record is not None
    assert (record.rule, record.params, record.endtime) == ("made_up", ["'x'"], 1234.5)
    assert record.input_checksums == {"input.txt": f"sha256:{_sha256(b'small')}"}
    assert read_record(tmp_path, output) == RECORD | {"input": ["input.txt"]}
    drop_record(tmp_path, output)
    assert FilePersistence(path=tmp_path / ".snakemake")._read_record(output) is None


def test_we_read_the_records_that_snakemake_writes(tmp_path: Path) -> None:
    from snakemake.persistence import MetadataRecord
    from snakemake.persistence.file import FilePersistence

    FilePersistence(path=tmp_path / ".snakemake")._write_record(
        "out", MetadataRecord(rule="r", params=["1"], record_format_version=6, endtime=3.0)
    )
    record = read_record(tmp_path, "out")
    assert record is not None
    assert record["rule"] == "r"
    assert "endtime" not in record


def test_a_record_of_another_snakemake_is_refused(tmp_path: Path) -> None:
    from snakemake.persistence import MetadataRecord
    from snakemake.persistence.file import FilePersistence

    FilePersistence(path=tmp_path / ".snakemake")._write_record("out", MetadataRecord(rule="r", record_format_version=7))
    with pytest.raises(SharingError, match=r"out: Snakemake's record has format 7, not 6: use the Snakemake of requirements.lock"):
        read_record(tmp_path, "out")


@pytest.mark.parametrize("package", ["snakemake", "dvc"])
def test_another_release_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    release = {"snakemake": snakemake_metadata.RELEASE, "dvc": dvc_metadata.RELEASE}[package]
    installed = importlib.metadata.version(package)
    assert installed.startswith(f"{release}.")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{release}1.0" if name == package else installed)
    message = f"{package} {release}1.0 is installed, but its metadata on disk is .* as {package} {release} does: install that release"
    with pytest.raises(SharingError, match=message):
        read_record(tmp_path, "out") if package == "snakemake" else dvc_metadata.repository(tmp_path).__enter__()


def test_an_unmerged_provenance_file_is_named(tmp_path: Path) -> None:
    write_statements(tmp_path, "exp", [Statement("data/exp/a", "0", {}, RECORD)])
    path = tmp_path / "provenance/exp/made_up.jsonl"
    path.write_text("<<<<<<< ours\n" + path.read_text())
    with pytest.raises(SharingError, match=r"made_up.jsonl, line 1: not a statement .*finish the merge"):
        read_statements(tmp_path, "exp")


def test_rules_that_are_gone_leave_no_statements(tmp_path: Path) -> None:
    write_statements(tmp_path, "exp", [Statement("data/exp/a", "0", {}, RECORD)])
    write_statements(tmp_path, "exp", [Statement("data/exp/b", "0", {}, RECORD | {"rule": "another"})])
    assert set(read_statements(tmp_path, "exp")) == {"data/exp/b"}
    assert json.loads((tmp_path / "provenance/exp/another.jsonl").read_text())["output"] == "data/exp/b"
