"""What comes from a DVC remote or a colleague's git: every listing, object and path tampered with."""

# ruff: noqa: F811 (fixtures of another file)

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_results import FILES, MANIFEST, OUTPUTS, PART, RECORD, Shared, write
from sharing_folders import damage, damaged_objects, objects
from test_pull import published, shared  # noqa: F401

from saesteer.sharing import publish
from saesteer.sharing.commands import SharingError, dvc, git, set_up_merging
from saesteer.sharing.dvc_metadata import merge_versions
from saesteer.sharing.provenance import Statement, write_statements
from saesteer.sharing.publish import push

ELSEWHERE = (
    "../../../src/evil.py",
    "../../../.git/hooks/post-checkout",
    "../../../../outside.py",
    "/tmp/absolute.py",
    "a/../../../evil.py",
    "./b",
    "",
)
"""Paths in a listing of data/exp/tables that lie elsewhere, or are written in another way than DVC writes them."""


def test_what_was_published_comes(shared: Shared) -> None:
    assert yaml.safe_load((shared.clone / "data/exp/metrics.json.dvc").read_text())["outs"][0]["isexec"]
    examination = shared.pull()
    assert set(examination.agreeing) == set(OUTPUTS)
    assert not examination.refused
    assert {name: (shared.clone / name).read_bytes() for name in FILES} == FILES
    assert not shared.pull().refused


@pytest.mark.parametrize("relpath", [*ELSEWHERE, "fine.parquet"])
def test_a_listing_with_one_more_entry(shared: Shared, relpath: str) -> None:
    before = shared.files()
    forged = shared.with_entry(relpath)
    shared.object(shared.named("data/exp/tables")).write_bytes(forged)
    examination = shared.pull()
    assert examination.refused == {f"data/exp/tables/{name}.parquet": "missing" for name in "tu"}
    come = {f"clone/{name}": data for name, data in FILES.items() if "tables" not in name}
    new = {name: data for name, data in shared.files().items() if before.get(name) != data}
    assert {name: data for name, data in new.items() if not name.endswith(".pulled.json")} == come


def test_a_forged_part_in_the_remote(shared: Shared) -> None:
    digest, path = shared.named("data/exp/judge"), f"abcd/layer_00/{hashlib.sha256(b'forged').hexdigest()}.parquet"
    entries = json.loads(shared.object(digest).read_bytes())
    forged = [*entries, {"md5": shared.add_object(b"forged"), "relpath": path}]
    shared.object(digest).write_bytes(json.dumps(forged).encode())
    shared.pull()
    assert not (shared.clone / "data/exp/judge" / path).exists()


@pytest.mark.parametrize("relpath", [*ELSEWHERE, "t.parquet", "t.parquet/below", "a\\b", "a\0b", "a\0/b"])
def test_a_listing_that_git_names(shared: Shared, relpath: str) -> None:
    shared.name("data/exp/tables", shared.add_object(shared.with_entry(relpath), ".dir"))
    shared.refuses("the listing of .*tables names")


def test_every_object_tampered_with(shared: Shared, tmp_path: Path) -> None:
    for number, (name, data) in enumerate(FILES.items()):
        twin = Shared(tmp_path / f"clone{number}", shared.store)
        shutil.copytree(shared.clone, twin.clone)
        held = twin.object(hashlib.md5(data).hexdigest())
        whole = held.read_bytes()
        damage(held)
        refused = twin.pull().refused
        if name in OUTPUTS or name == PART:
            assert set(refused) == {MANIFEST if name == PART else name} | ({"data/exp/metrics.json"} if data == b"{}" else set())
        assert not (twin.clone / name).exists()
        assert damaged_objects(twin.clone / ".dvc/cache") == []
        held.write_bytes(whole)


def test_a_remote_of_which_nothing_is_true(shared: Shared) -> None:
    before = shared.files()
    for held in objects(shared.store):
        damage(held)
    assert not shared.pull().agreeing
    assert shared.files() == before


def test_a_remote_that_does_not_answer(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    remote = "['remote \"storage\"']\n    url = s3://results/none\n    endpointurl = http://127.0.0.1:9/\n"
    (shared.clone / ".dvc/config.local").write_text(remote)
    shared.refuses("the remote could not be read, so nothing was put in place")


def test_a_damaged_object_in_the_cache(shared: Shared) -> None:
    shared.pull()
    (shared.clone / "data/exp/tables/t.parquet").unlink()
    digest = hashlib.md5(b"a table").hexdigest()
    cached = shared.clone / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    damage(cached)
    cached.chmod(0o444)
    assert not shared.pull().refused
    assert (shared.clone / "data/exp/tables/t.parquet").read_bytes() == b"a table"


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values | {"wdir": "../../.."},
        lambda values: values | {"cmd": "touch /tmp/evil", "deps": []},
        lambda values: {"outs": [values["outs"][0] | {"path": "../../src"}]},
        lambda values: {"outs": [values["outs"][0] | {"path": "/tmp/evil"}]},
        lambda values: {"outs": [values["outs"][0] | {"remote": "other"}]},
        lambda values: {"outs": [values["outs"][0], values["outs"][0] | {"path": "other"}]},
        lambda values: {"outs": [values["outs"][0] | {"md5": "../../../../../etc/passwd"}]},
        lambda values: ["no mapping"],
    ],
)
def test_a_dvc_file_of_another_form(shared: Shared, edit: Callable[[dict[str, object]], object]) -> None:
    path = shared.clone / "data/exp/tables.dvc"
    path.write_text(yaml.safe_dump(edit(yaml.safe_load(path.read_text()))))
    shared.refuses(r"data/exp/tables\.dvc")


@pytest.mark.parametrize(
    "name", [".dvc", ".dvc/cache", ".dvc/tmp", ".dvc/config", ".snakemake", "data", "data/exp", "figures", "provenance"]
)
def test_a_link_in_git(shared: Shared, tmp_path: Path, name: str) -> None:
    place, elsewhere = shared.clone / name, tmp_path / "elsewhere"
    if place.exists():
        place.rename(elsewhere)
    else:
        elsewhere.mkdir()
    place.symlink_to(elsewhere)
    git(shared.clone, "rm", "-r", "--cached", "--quiet", "--ignore-unmatch", name)
    git(shared.clone, "add", "--force", name)
    shared.refuses(f"git holds {re.escape(name)}, .* so nothing was done")


@pytest.mark.parametrize("name", [".dvc", "data/exp", "figures/exp/more"])
def test_another_repository_in_git(shared: Shared, name: str) -> None:
    """A submodule brings links and settings that this repository's own list of files does not show."""
    git(shared.clone, "rm", "-r", "--cached", "--quiet", "--ignore-unmatch", name)
    git(shared.clone, "update-index", "--add", "--cacheinfo", f"160000,{git(shared.clone, 'rev-parse', 'HEAD').strip()},{name}")
    shared.refuses(f"git holds {re.escape(name)}, ")


def test_a_program_in_settings_of_dvc_that_git_brings(shared: Shared, tmp_path: Path) -> None:
    """The program that prints credentials of S3, by the file that `configpath` names."""
    (shared.clone / "aws").write_text(f"[default]\ncredential_process = touch {tmp_path}/ran\nregion = us-east-1\n")
    remote = "['remote \"storage\"']\n    url = s3://results/none\n    endpointurl = http://127.0.0.1:9/\n    configpath = ../aws\n"
    (shared.clone / ".dvc/config.local").write_text(remote)
    git(shared.clone, "add", "--force", ".dvc/config.local")
    with pytest.raises(SharingError):
        shared.pull()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", [".dvc/config.local", ".dvc/plots/simple.json", ".dvc/tmp/pulled/exp.json", ".DVC/config.local", ".snakemake/metadata/x"]
)
def test_files_of_dvc_and_snakemake_that_git_must_not_bring(shared: Shared, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On some file systems .DVC is .dvc. A pull, a push and a merge are refused alike."""
    write(shared.clone, {name: b""})
    git(shared.clone, "add", "--force", name)
    monkeypatch.chdir(shared.clone)
    actions = (
        shared.pull,
        lambda: push(shared.clone, []),
        lambda: merge_versions(*[Path("data/exp/tables.dvc")] * 3),
    )
    for action in actions:
        with pytest.raises(SharingError, match=f"git holds {re.escape(name)}, "):
            action()


def test_a_program_of_the_name_of_dvc_that_git_brings(shared: Shared) -> None:
    """Python takes modules from the current folder first, unless it is told not to."""
    write(shared.clone, {"dvc.py": b"open('ran', 'w')", "saesteer.py": b"open('ran', 'w')"})
    assert dvc(shared.clone, "version")
    set_up_merging(shared.clone)
    driver = git(shared.clone, "config", "merge.saesteer.driver").strip().replace("merge-versions %A %B %P", "--version")
    subprocess.run(driver, shell=True, cwd=shared.clone, check=True, capture_output=True)
    assert not (shared.clone / "ran").exists()


@pytest.mark.parametrize("folder", ["../other/data/exp", "{outside}/data/exp", "data/../../other/data/exp", "data/other/exp", "data/exp2"])
def test_a_configuration_whose_folders_lead_elsewhere(shared: Shared, tmp_path: Path, folder: str) -> None:
    """data_dir and figures_dir of a configuration in git: files there are somebody else's, and are neither renamed nor removed."""
    names = [f"{folder.format(outside=tmp_path)}/tables/{name}.parquet" for name in "tu"]
    write(shared.clone, dict.fromkeys(names, b"of another project"))
    shared.refuses(r"t\.parquet.* data_dir and figures_dir .* nothing was pulled", tuple(names))


def test_a_link_on_the_way(shared: Shared, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (shared.clone / "data/exp/judge").mkdir()
    (shared.clone / "data/exp/judge/abcd").symlink_to(tmp_path / "elsewhere")
    shared.refuses("the listing of .*judge names 'abcd/")


@pytest.mark.parametrize(
    "output", ["../precious.txt", "data/exp/../../../precious.txt", "{outside}", "src/module.py", "data/other/t.parquet", PART]
)
def test_an_output_elsewhere_in_provenance(shared: Shared, tmp_path: Path, output: str) -> None:
    write(shared.clone, {"../precious.txt": b"mine", "src/module.py": b"code", "data/other/t.parquet": b"other"})
    line = json.dumps({"output": output.format(outside=tmp_path / "precious.txt"), "sha256": "0", "inputs": {}, "record": RECORD})
    path = shared.clone / "provenance/exp/made_up.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    shared.refuses(r"made_up\.jsonl, line 6: .* is no result of exp")


@pytest.mark.parametrize(
    "record", [RECORD | {"more": 1}, RECORD | {"input": 5}, RECORD | {"rule": "../../src/module"}, {}, None, [1], b"no encoding: \xff"]
)
def test_a_record_of_another_form_in_provenance(shared: Shared, record: Any) -> None:
    statement = {"output": "data/exp/tables/t.parquet", "sha256": "0", "inputs": {}, "record": record}
    line = record if isinstance(record, bytes) else json.dumps(statement).encode()
    (shared.clone / "provenance/exp/made_up.jsonl").write_bytes(line + b"\n")
    shared.refuses(r"made_up\.jsonl, line 1: not a statement")


@pytest.mark.parametrize("sha256", [hashlib.sha256(b"secret").hexdigest(), "0" * 64])
def test_an_input_elsewhere_in_provenance(shared: Shared, tmp_path: Path, sha256: str) -> None:
    """It is not read, as its digest is nobody's business: what was made of it counts as made without, so its job is due."""
    (tmp_path / "secret.txt").write_bytes(b"secret")
    record = RECORD | {"input": ["../secret.txt"]}
    statement = Statement("data/exp/metrics.json", hashlib.sha256(b"{}").hexdigest(), {"../secret.txt": sha256}, record)
    write_statements(shared.clone, "exp", [statement])
    agreeing = shared.pull(("data/exp/metrics.json",)).agreeing["data/exp/metrics.json"]
    assert (agreeing.inputs, agreeing.record["input"]) == ({}, [])


def why_manifest_is_refused(shared: Shared, data: bytes) -> str:
    """Why a pull refuses a manifest of these bytes, which git and the remote name as they should."""
    entries = json.loads(shared.object(shared.named("data/exp/judge")).read_bytes())
    listing = [entry | {"md5": shared.add_object(data)} if entry["relpath"] == Path(MANIFEST).name else entry for entry in entries]
    shared.name("data/exp/judge", shared.add_object(json.dumps(listing).encode(), ".dir"))
    write_statements(shared.clone, "exp", [Statement(MANIFEST, hashlib.sha256(data).hexdigest(), {}, RECORD)])
    return shared.pull().refused[MANIFEST]


SECRET = f"{hashlib.sha256(b'secret').hexdigest()}.parquet"


@pytest.mark.parametrize("named", [f"../../../../{SECRET}", "é" * 200], ids=["elsewhere", "longer than a file's name can be"])
def test_a_manifest_that_leads_elsewhere(shared: Shared, tmp_path: Path, named: str) -> None:
    (tmp_path / SECRET).write_bytes(b"secret")
    data = json.dumps({"step": "judge", "layers": {"0": {"parts": [{"path": named}]}}}).encode()
    assert "does not lie below the manifest" in why_manifest_is_refused(shared, data)


@pytest.mark.parametrize(
    "data",
    [
        b"[]",
        b"{",
        b"\xff",
        b"[" * 5000,
        b'{"layers": {"0": 1}}',
        b'{"layers": {"0": {"parts": [{}]}}}',
        b'{"layers": {"0": {"parts": [5]}}}',
    ],
)
def test_what_is_no_manifest(shared: Shared, data: bytes) -> None:
    assert "is no manifest" in why_manifest_is_refused(shared, data)


@pytest.mark.parametrize(("section", "key"), [("['remote \"storage\"']", "configpath"), ("[core]", "site_cache_dir"), ("[cache]", "dir")])
def test_settings_of_dvc_that_git_must_not_bring(shared: Shared, section: str, key: str) -> None:
    """A file named by configpath, say, can hold a command that prints credentials. In config.local they are the user's business."""
    written = (shared.clone / ".dvc/config").read_text()
    before, _, after = f"{written}\n[cache]\n".partition(section)
    (shared.clone / ".dvc/config").write_text(f"{before}{section}\n    {key} = ../x{after}")
    shared.refuses(rf"\.dvc/config has \w+\.{key}, .* move them to \.dvc/config\.local")
    (shared.clone / ".dvc/config").write_text(written)
    with (shared.clone / ".dvc/config.local").open("a") as local:
        local.write("[core]\n    checksum_jobs = 1\n")
    assert not shared.pull().refused


def test_a_listing_that_is_none(shared: Shared) -> None:
    shared.name("data/exp/tables", shared.add_object(b"{}", ".dir"))
    shared.refuses("as the listing of .*tables is none")


def test_a_listing_longer_than_any(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saesteer.sharing.dvc_metadata._LARGEST_LISTING", 10)
    assert shared.pull().refused["data/exp/tables/t.parquet"] == "missing"


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"\xff", "is no file"), (b"outs: " + b"[" * 500 + b"]" * 500, "is no file"), (b"a: &a [b]\nouts: [*a, *a]", "has a YAML alias")],
    ids=["bytes", "nested", "alias"],
)
def test_a_dvc_file_that_cannot_be_read(shared: Shared, text: bytes, said: str) -> None:
    """Ten aliases within each other take minutes to read, or to show in a message."""
    (shared.clone / "data/exp/tables.dvc").write_bytes(text)
    shared.refuses(rf"data/exp/tables\.dvc {said}")


def test_a_forged_listing_in_a_merge(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = shared.clone / "theirs.dvc"
    digest = shared.add_object(shared.with_entry("v.parquet"), ".dir")
    shared.object(digest).write_bytes(shared.with_entry("../../../src/evil.py"))
    theirs.write_text((shared.clone / "data/exp/tables.dvc").read_text().replace(shared.named("data/exp/tables"), digest))
    monkeypatch.chdir(shared.clone)
    with pytest.raises(SharingError, match="neither DVC's cache nor the remote has the other branch's listing"):
        merge_versions(Path("data/exp/tables.dvc"), theirs, Path("data/exp/tables.dvc"))


def test_results_of_an_input_that_is_not_committed_are_not_published(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts or texts of one's own lie anywhere in the repository. What git does not hold stays here, as texts may."""
    for name in ("mine/prompts.txt", "mine/texts.txt"):
        write(shared.clone, {name: b"The sea"})
    git(shared.clone, "add", "mine/prompts.txt")
    git(shared.clone, "commit", "--quiet", "--message", "Prompts")

    def recorded(folder: Path, configuration: list[str]) -> list[Path]:
        inputs = {name: hashlib.sha256(b"The sea").hexdigest() for name in ("mine/prompts.txt", "mine/texts.txt")}
        write_statements(folder, "exp", [Statement("data/exp/metrics.json", hashlib.sha256(b"{}").hexdigest(), inputs, RECORD)])
        return [Path("data/exp/metrics.json")]

    monkeypatch.setattr(publish, "record", recorded)
    monkeypatch.setattr(publish, "SOURCES", ("data",))
    (shared.clone / "mine/prompts.txt").write_bytes(b"The tea")
    with pytest.raises(SharingError, match=r"commit these first, .*\n M mine/prompts.txt$"):
        publish.push(shared.clone, [])


def test_what_this_machine_fetched_is_no_input_and_a_folder_of_that_name_is() -> None:
    assert [publish._is_local(name) for name in ("data/downloads/exp/model.json", "downloads/texts.parquet", "/x/downloads/m")] == [
        True,
        False,
        False,
    ]
