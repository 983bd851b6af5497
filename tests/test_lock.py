"""Installing by the Makefile's own command: only files whose hash the lock has."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from package_index import wheel

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "Makefile").read_text(encoding="utf-8").split("$(INSTALLED): ")[1].split("\n\n")[0]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def lantern(folder: Path, code: str) -> str:
    """A wheel of the package `lantern`, which one in the same folder replaces; its hash."""
    data = wheel("lantern", {"lantern.py": code.encode()})
    (folder / "lantern-1.0-py3-none-any.whl").write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def installed(folder: Path, lock: str) -> subprocess.CompletedProcess[str]:
    """What comes of the Makefile's command with this lock, where packages are the folder's; they are put into folder/made."""
    (folder / "requirements.lock").write_text(lock)
    (line,) = (line for line in RECIPE.splitlines() if "--requirement requirements.lock" in line)
    command = line.strip().replace("$(BIN)/uv", "uv").replace("$(BIN)/python", f"{sys.executable} --target made").split()
    command += ["--offline", "--no-index", "--find-links", ".", "--cache-dir", "cache"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("lock", "refusal"),
    [
        ("lantern==1.0 --hash=sha256:{of_this}", None),
        ("lantern==1.0 --hash=sha256:{of_another}", "Hash mismatch"),
        ("lantern==1.0", "hash"),
    ],
)
def test_only_a_package_with_the_hash_of_the_lock_is_installed(tmp_path: Path, lock: str, refusal: str | None) -> None:
    of_another, of_this = lantern(tmp_path, "LIT = 1"), lantern(tmp_path, "LIT = 2")
    done = installed(tmp_path, lock.format(of_this=of_this, of_another=of_another) + "\n")
    assert (done.returncode == 0) == (refusal is None), done.stderr
    assert (refusal or "") in done.stderr
    assert (tmp_path / "made/lantern.py").exists() == (refusal is None)


def test_every_line_of_the_lock_has_a_hash() -> None:
    entries = re.split(r"\n(?! )", LOCK.strip())
    assert len(entries) > 300
    assert [entry for entry in entries if not re.match(r"\S+==[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}", entry)] == []


def test_uv_and_torch_have_one_version_and_conda_and_apptainer_install_as_make_does() -> None:
    pinned = re.findall(r"pip install --quiet (\S+)$", RECIPE, re.MULTILINE)
    assert [re.fullmatch(r"(\w+)==[\d.]+", one)[1] for one in pinned] == ["torch", "uv"]  # type: ignore[index]
    steps = [re.sub(r" --quiet| --compile-bytecode| --python \S+", "", step) for step in re.findall("pip install(.*)", RECIPE)]
    assert re.findall("pip install(.*)", (ROOT / "envs/saesteer.post-deploy.sh").read_text(encoding="utf-8")) == steps
    assert "\n    bash envs/saesteer.post-deploy.sh\n" in (ROOT / "envs/saesteer.def").read_text(encoding="utf-8")
