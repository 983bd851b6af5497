"""Clones of the repository whose results are shared: what each colleague has."""

import csv
import hashlib
import io
import shutil
import subprocess
from pathlib import Path

from workflow_folder import Checkout, Folder


class Clone(Folder):
    """A colleague's clone: its own code, git, DVC and Snakemake."""

    def __init__(self, path: Path, new: bool = False) -> None:
        super().__init__(path, path)
        if new:
            self.git("init", "--quiet", "--initial-branch=main")
        identity = {"user.name": "A colleague", "user.email": "colleague@example.org"}
        uncompressed = {"core.compression": "0", "pack.window": "0"}  # a push would take most of a test's time
        for key, value in (identity | uncompressed).items():
            self.git("config", key, value)

    def tool(self, *command: str, code: int | None = 0) -> str:
        """Run one of the environment's programs and give all its output; `code` None: whatever it exits with."""
        done = subprocess.run(
            list(command),
            cwd=self.path,
            env=self.warm,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout
        return done.stdout

    def git(self, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=self.path, capture_output=True, text=True, check=True, env=self.warm).stdout

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def due(self) -> set[str]:
        """Outputs that Snakemake would make again."""
        text = self.tool("snakemake", "--summary", "--config", "experiments=[micro]")
        lines = text[text.index("output_file") :]
        return {row["output_file"] for row in csv.DictReader(io.StringIO(lines), delimiter="\t") if row["plan"] != "no update"}

    def has_nothing_to_do(self) -> bool:
        code, output = self.run("--dry-run")
        assert code == 0, output
        return "Nothing to be done" in output


def first_clone(path: Path, finished: Folder, url: str, copied: tuple[str, ...] = ("data/micro",), **remote_settings: str) -> Clone:
    """A repository with a finished experiment (micro), a bare git repository beside it and a DVC remote; nothing published yet."""
    Checkout(path)
    for name in (*copied, "figures", "logs", ".snakemake"):
        shutil.copytree(finished.path / name, path / name, dirs_exist_ok=True)
    bare = path.parent / "git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare)], check=True)
    clone = Clone(path, new=True)
    clone.git("remote", "add", "origin", str(bare))
    clone.tool("dvc", "remote", "add", "--quiet", "--default", "storage", url)
    for key, value in remote_settings.items():
        clone.tool("dvc", "remote", "modify", "--quiet", "storage", key, value)
    clone.commit("Code and configuration")
    clone.git("push", "--quiet", "--set-upstream", "origin", "main")
    return clone


def clone_of(clone: Clone, path: Path) -> Clone:
    """What `git clone` gives a colleague."""
    subprocess.run(["git", "clone", "--quiet", str(clone.path.parent / "git"), str(path)], check=True)
    return Clone(path)


def objects(store: Path) -> dict[Path, int]:
    """The objects of a DVC cache or of a remote that is a folder, and their sizes."""
    return {path: path.stat().st_size for path in (store / "files/md5").rglob("*") if path.is_file()}


def object_of(store: Path, file: Path) -> Path:
    """Where a DVC cache or remote keeps the bytes of a file."""
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    return store / "files/md5" / digest[:2] / digest[2:]


def damaged_objects(store: Path) -> list[Path]:
    """Objects whose bytes do not have the MD5 that names them."""
    return [path for path in objects(store) if hashlib.md5(path.read_bytes()).hexdigest() != (path.parent.name + path.name)[:32]]


def damage(path: Path) -> None:
    """Change one byte in the middle of a file, keeping its size, as a bad disk does."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
