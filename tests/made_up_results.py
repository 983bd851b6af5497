"""A small repository with made-up results in a DVC remote, and a colleague's clone of it: quick to make, and to tamper with."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from saesteer.sharing.commands import SharingError
from saesteer.sharing.provenance import Statement, write_statements
from saesteer.sharing.pull import Examination, pull
from saesteer.sharing.snakemake_metadata import FIELDS

RECORD = dict.fromkeys(FIELDS) | {"rule": "made_up", "params": ["'x'"], "record_format_version": 6}
ANSWER = b"an answer that was paid for"
PART = f"data/exp/judge/abcd/layer_00/{hashlib.sha256(b'rows').hexdigest()}.parquet"
ANSWERS = f"data/exp/judge/answers/ef01/{hashlib.sha256(ANSWER).hexdigest()}.parquet"
MANIFEST = "data/exp/judge/layers_00-00.json"
FILES = {
    "data/exp/tables/t.parquet": b"a table",
    "data/exp/tables/u.parquet": b"another table",
    "data/exp/metrics.json": b"{}",
    "figures/exp/roles.pdf": b"a figure",
    PART: b"rows",
    ANSWERS: ANSWER,
    "data/exp/judge/abcd/fingerprint.json": b"{}",
    MANIFEST: json.dumps({"step": "judge", "layers": {"0": {"parts": [{"path": str(Path(*Path(PART).parts[3:]))}]}}}).encode(),
}
OUTPUTS = [name for name in FILES if name not in (PART, ANSWERS, "data/exp/judge/abcd/fingerprint.json")]
TRACKED = ("data/exp/tables", "data/exp/judge", "data/exp/metrics.json", "figures/exp")


@dataclass(frozen=True)
class Shared:
    """A clone and its own copy of the remote."""

    clone: Path
    store: Path

    def pull(self, planned: tuple[str, ...] = tuple(OUTPUTS)) -> Examination:
        return pull(self.clone, [], lambda name: planned)["exp"]

    def refuses(self, message: str, planned: tuple[str, ...] = tuple(OUTPUTS)) -> None:
        """A pull stops with a message and changes no file."""
        before = self.files()
        with pytest.raises(SharingError, match=message):
            self.pull(planned)
        assert self.files() == before

    def object(self, digest: str) -> Path:
        return self.store / "files/md5" / digest[:2] / digest[2:]

    def named(self, file: str) -> str:
        """The MD5 by which git names a folder or file."""
        return str(yaml.safe_load((self.clone / f"{file}.dvc").read_text())["outs"][0]["md5"])

    def name(self, file: str, digest: str) -> None:
        path = self.clone / f"{file}.dvc"
        values = yaml.safe_load(path.read_text())
        values["outs"][0]["md5"] = digest
        path.write_text(yaml.safe_dump(values))

    def add_object(self, data: bytes, ending: str = "") -> str:
        digest = hashlib.md5(data).hexdigest() + ending
        self.object(digest).parent.mkdir(parents=True, exist_ok=True)
        self.object(digest).write_bytes(data)
        return digest

    def with_entry(self, relpath: str, data: bytes = b"evil") -> bytes:
        """The bytes of the listing of data/exp/tables with one more entry, whose object is in the remote."""
        entries = json.loads(self.object(self.named("data/exp/tables")).read_bytes())
        return json.dumps([*entries, {"md5": self.add_object(data), "relpath": relpath}]).encode()

    def files(self) -> dict[str, bytes]:
        """Every file around the clone but for git's, DVC's and Snakemake's own."""
        top = self.clone.parent
        paths = (path for path in top.rglob("*") if path.is_file() and not path.is_relative_to(self.store))
        names = {str(path.relative_to(top)): path for path in paths}
        kept = ("clone/.git/hooks", "clone/.dvc/config")
        return {
            name: path.read_bytes()
            for name, path in names.items()
            if name.startswith(kept) or not name.startswith(("clone/.git/", "clone/.dvc/", "clone/.snakemake/"))
        }


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def publish(folder: Path) -> Shared:
    """A colleague's clone of a repository whose results, made up, are in the remote. Made where every file may be executed, as on drives
    without permissions, which DVC writes down."""
    a, store = folder / "a", folder / "store"
    write(a, FILES)
    for name in FILES:
        (a / name).chmod(0o755)
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(Path(__file__).parents[1] / name, a / name)
    run(a, "git", "init", "--quiet", "--initial-branch=main")
    run(a, "git", "config", "user.name", "A")
    run(a, "git", "config", "user.email", "a@example.org")
    config = f"[core]\n    analytics = false\n    remote = storage\n['remote \"storage\"']\n    url = {store}\n"
    write(a, {".dvc/config": config.encode(), ".dvc/.gitignore": b"/config.local\n/tmp\n/cache\n"})
    for command in (("add", "--quiet", *TRACKED), ("push", "--quiet")):
        run(a, sys.executable, "-m", "dvc", *command)
    statements = [Statement(name, hashlib.sha256(FILES[name]).hexdigest(), {}, RECORD) for name in OUTPUTS]
    write_statements(a, "exp", statements)
    run(a, "git", "add", "--all")
    run(a, "git", "commit", "--quiet", "--message", "Results")
    run(folder, "git", "clone", "--quiet", str(a), str(folder / "clone"))
    run(folder / "clone", "git", "config", "user.name", "B")
    run(folder / "clone", "git", "config", "user.email", "b@example.org")
    return Shared(folder / "clone", store)


def copy_of(published: Shared, folder: Path) -> Shared:
    """The clone and the remote, to tamper with."""
    shared = Shared(folder / "clone", folder / "store")
    shutil.copytree(published.clone, shared.clone)
    shutil.copytree(published.store, shared.store)
    (shared.clone / ".dvc/config.local").write_text(f"['remote \"storage\"']\n    url = {shared.store}\n")
    return shared
