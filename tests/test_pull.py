"""What a pull replaces and removes: what an earlier pull or a rule wrote, and nothing that a person, a paid judge or a job here made."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from made_up_results import ANSWER, ANSWERS, PART, RECORD, TRACKED, Shared, copy_of, publish, write
from sharing_folders import damage

from saesteer.judge.spend import LEDGER
from saesteer.sharing import publish as publishing
from saesteer.sharing.commands import SharingError, git
from saesteer.sharing.provenance import Statement, write_statements
from saesteer.sharing.snakemake_metadata import write_record


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture
def shared(published: Shared, tmp_path: Path) -> Shared:
    return copy_of(published, tmp_path)


HERE = {
    f"data/exp/judge/answers/ef01/{hashlib.sha256(b'unpublished').hexdigest()}.parquet": b"unpublished",
    f"data/exp/judge/abcd/layer_00/{hashlib.sha256(b'my rows').hexdigest()}.parquet": b"my rows",
    "data/exp/judge/answers/ef01/batches/1.json": b"a batch under way",
    "data/exp/uploads/receipt.json": b"a receipt",
    "data/exp/notes.md": b"my notes",
    "data/exp/tables/notes.md": b"my notes on tables",
    "data/exp/tables/t.parquet.corrupt": b"set aside",
    "figures/exp/roles-annotated.pdf": b"annotated",
    "figures/exp/report/index.html": b"the report",
}
"""What a person, a paid judge or a job here left beside what is pulled."""


def test_what_was_paid_for_or_made_by_hand_stays(shared: Shared) -> None:
    write(shared.clone, HERE)
    shared.pull()
    shared.pull()
    assert {name: (shared.clone / name).read_bytes() for name in HERE} == HERE


def _publish_notes(shared: Shared, data: bytes) -> None:
    """A colleague's version has notes among its tables."""
    git(shared.clone, "checkout", "--", "data/exp/tables.dvc")
    shared.name("data/exp/tables", shared.add_object(shared.with_entry("notes.md", data), ".dir"))


def test_a_file_in_the_way(shared: Shared) -> None:
    write(shared.clone, {"data/exp/tables/notes.md": b"my notes"})
    _publish_notes(shared, b"the colleague's")
    shared.refuses(r"in the way .*\n  data/exp/tables/notes\.md")


@pytest.mark.parametrize("path", ["data/exp/tables/t.parquet/mine.txt", "data/exp/judge/abcd"])
def test_a_folder_or_file_in_the_way(shared: Shared, path: str) -> None:
    write(shared.clone, {path: b"mine"})
    shared.refuses("in the way")


def test_what_pull_wrote_follows_the_version_unless_somebody_changed_it(shared: Shared) -> None:
    notes = shared.clone / "data/exp/tables/notes.md"
    _publish_notes(shared, b"first")
    shared.pull()
    assert notes.read_bytes() == b"first"
    _publish_notes(shared, b"second")
    shared.pull()
    assert notes.read_bytes() == b"second"
    notes.write_bytes(b"edited here")
    _publish_notes(shared, b"third")
    shared.refuses("in the way")
    git(shared.clone, "checkout", "--", "data/exp/tables.dvc")
    shared.pull()
    assert notes.read_bytes() == b"edited here"
    _publish_notes(shared, b"edited here")
    shared.pull()
    git(shared.clone, "checkout", "--", "data/exp/tables.dvc")
    shared.pull()
    assert notes.read_bytes() == b"edited here", "pull did not write it"


def test_what_pull_wrote_goes_with_the_version(shared: Shared) -> None:
    _publish_notes(shared, b"first")
    shared.pull()
    git(shared.clone, "checkout", "--", "data/exp/tables.dvc")
    shared.pull()
    assert not (shared.clone / "data/exp/tables/notes.md").exists()
    assert (shared.clone / ANSWERS).read_bytes() == ANSWER


def test_parts_and_answers_outlive_a_version_without_them(shared: Shared) -> None:
    shared.pull()
    entries = json.loads(shared.object(shared.named("data/exp/judge")).read_bytes())
    left = [entry for entry in entries if not entry["relpath"].endswith(".parquet")]
    shared.name("data/exp/judge", shared.add_object(json.dumps(left).encode(), ".dir"))
    shared.pull()
    assert (shared.clone / PART).read_bytes() == b"rows"
    assert (shared.clone / ANSWERS).read_bytes() == ANSWER


@pytest.mark.parametrize("name", [LEDGER, LEDGER.capitalize()])
def test_what_was_spent_is_never_pulled(shared: Shared, name: str) -> None:
    """A ledger in a colleague's commit could say that less was spent, or that all is."""
    out = {"md5": shared.add_object(b"{}\n"), "hash": "md5", "path": name}
    write(shared.clone, {f"data/exp/{name}.dvc": json.dumps({"outs": [out]}).encode()})
    shared.refuses(rf"{name} is each clone's own")


def test_nothing_is_removed_while_a_listing_is_missing(shared: Shared) -> None:
    _publish_notes(shared, b"first")
    shared.pull()
    shared.name("data/exp/tables", "0" * 32 + ".dir")
    shared.pull()
    assert (shared.clone / "data/exp/tables/notes.md").read_bytes() == b"first"


@pytest.mark.parametrize("way", ["git", "the remote"])
def test_a_forged_ledger(shared: Shared, tmp_path: Path, way: str) -> None:
    """A list of what an earlier pull wrote, which no pull wrote: in git, or published as if it were a result."""
    write(shared.clone, {**HERE, "../precious.txt": b"mine", "src/module.py": b"code"})
    names = [*HERE, "../precious.txt", "src/module.py", str(tmp_path / "precious.txt")]
    forged = json.dumps({name: hashlib.md5((shared.clone / name).read_bytes()).hexdigest() for name in names}).encode()
    before = shared.files()
    if way == "git":
        write(shared.clone, {"data/exp/.pulled.json": forged})
    else:
        out = {"md5": shared.add_object(forged), "hash": "md5", "path": ".pulled.json"}
        write(shared.clone, {"data/exp/.pulled.json.dvc": json.dumps({"outs": [out]}).encode()})
    shared.pull()
    shared.pull()
    assert {name: data for name, data in shared.files().items() if name in before} == before


@pytest.mark.parametrize("sha256", ["0" * 64, hashlib.sha256(b"of a colleague").hexdigest()], ids=["missing", "published"])
def test_provenance_of_what_no_rule_makes(shared: Shared, sha256: str) -> None:
    """Provenance in git that calls notes, receipts and batches outputs, which no rule plans. They are neither removed nor replaced."""
    write(shared.clone, HERE)
    write_statements(shared.clone, "exp", [Statement(name, sha256, {}, RECORD) for name in HERE if ".parquet" not in name])
    shared.pull()
    assert {name: (shared.clone / name).read_bytes() for name in HERE} == HERE
    _publish_notes(shared, b"of a colleague")
    shared.refuses(r"in the way .*\n  data/exp/tables/notes\.md")


def test_a_damaged_part_is_set_aside_and_comes_again(shared: Shared) -> None:
    shared.pull()
    damage(shared.clone / PART)
    assert not shared.pull().refused
    assert (shared.clone / PART).read_bytes() == b"rows"
    assert (shared.clone / f"{PART}.corrupt").is_file()
    (shared.clone / PART).write_bytes(b"edited")
    shared.pull()
    assert (shared.clone / f"{PART}.1.corrupt").read_bytes() == b"edited"
    assert (shared.clone / f"{PART}.corrupt").read_bytes() != b"edited", "what was set aside before stays"


def test_a_planned_output_that_nothing_speaks_for(shared: Shared) -> None:
    write(shared.clone, {"data/exp/tables/v.parquet": b"from somewhere", "data/exp/tables/w.parquet": b"made here"})
    write_record(shared.clone, "data/exp/tables/w.parquet", RECORD, {}, 1.0)
    examination = shared.pull(("data/exp/tables/v.parquet", "data/exp/tables/w.parquet", "data/exp/tables/t.parquet"))
    assert examination.refused == {"data/exp/tables/v.parquet": "nothing was published about it"}
    assert (shared.clone / "data/exp/tables/v.parquet.corrupt").read_bytes() == b"from somewhere"
    assert (shared.clone / "data/exp/tables/w.parquet").read_bytes() == b"made here"


def test_an_output_made_from_another_input_is_not_adopted(shared: Shared) -> None:
    (shared.clone / "input.txt").write_bytes(b"other")
    made_from = {"input.txt": hashlib.sha256(b"published").hexdigest()}
    write_statements(shared.clone, "exp", [Statement("data/exp/metrics.json", hashlib.sha256(b"{}").hexdigest(), made_from, RECORD)])
    assert shared.pull(("data/exp/metrics.json",)).refused == {"data/exp/metrics.json": "made from input.txt, which is different here"}
    assert not (shared.clone / "data/exp/metrics.json").exists()


def test_files_are_links_where_dvc_is_told_so(shared: Shared) -> None:
    with (shared.clone / ".dvc/config.local").open("a") as file:
        file.write("[cache]\n    type = hardlink\n")
    shared.pull()
    assert (shared.clone / PART).stat().st_nlink == 2
    assert not os.access(shared.clone / PART, os.W_OK) or os.geteuid() == 0


def test_a_hard_link_to_a_file_outside(shared: Shared, tmp_path: Path) -> None:
    """What is replaced is the name; the bytes that another name leads to stay."""
    write(tmp_path, {"precious.txt": b"mine"})
    for name in ("data/exp/metrics.json", PART):
        (shared.clone / name).parent.mkdir(parents=True, exist_ok=True)
        (shared.clone / name).hardlink_to(tmp_path / "precious.txt")
    assert not shared.pull().refused
    assert (tmp_path / "precious.txt").read_bytes() == b"mine"


def test_an_upload_asks_the_remote_for_each_object(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC alone takes a folder's files to be where its listing is."""
    monkeypatch.chdir(shared.clone)
    shared.pull()
    tracked = [Path(name) for name in TRACKED]
    shared.object(hashlib.md5(b"rows").hexdigest()).unlink()
    publishing._upload(shared.clone, tracked)
    assert shared.object(hashlib.md5(b"rows").hexdigest()).read_bytes() == b"rows"
    shared.object(hashlib.md5(b"a table").hexdigest()).unlink()
    cached = shared.clone / ".dvc/cache" / shared.object(hashlib.md5(b"a table").hexdigest()).relative_to(shared.store)
    cached.unlink()
    with pytest.raises(SharingError, match="could not be uploaded"):
        publishing._upload(shared.clone, tracked)
