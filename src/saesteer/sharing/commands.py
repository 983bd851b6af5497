"""Running git and DVC as the user would."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from saesteer.core.errors import SaesteerError
from saesteer.core.files import check_braces


class SharingError(SaesteerError, RuntimeError):
    """Something that the user has to see to; the message says what, and that nothing is lost."""


def check_release(package: str, release: str) -> None:
    """Refuse another release of a package than the one whose metadata on disk is known here."""
    installed = importlib.metadata.version(package)
    if not f"{installed}.".startswith(f"{release}."):
        raise SharingError(
            f"{package} {installed} is installed, but its metadata on disk is read and written as {package} {release} does: install that"
            " release (`uv pip install --requirement requirements.lock`), and run the same command again"
        )


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and give its output; what it says of a failure is in English."""
    if not shutil.which("git"):
        raise SharingError("git is not installed here, or not on the PATH: install it, and run the same command again")
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SharingError(f"git {' '.join(arguments)} failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout


def git_top(folder: Path) -> Path | None:
    """The top of the repository that a folder is in; None where it is in none. One that git refuses, as another user's, is refused."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel").rstrip("\n")).resolve()
    except SharingError as error:
        if "not a git repository" in str(error):
            return None
        raise


def dvc(folder: Path, *arguments: str) -> bool:
    """Run DVC in a folder, its errors and progress going to the terminal, its hints nowhere; whether it succeeded."""
    check_braces(folder)
    command = [sys.executable, "-P", "-m", "dvc", *arguments]  # -P: no dvc.py of the folder; not --quiet, which hides errors too
    return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=False).returncode == 0


def set_up_merging(folder: Path) -> None:
    """Tell this clone's git how to merge *.dvc files (.gitattributes names the driver; what it runs is each clone's own setting)."""
    git(folder, "config", "merge.saesteer.name", "union of DVC folders")
    git(folder, "config", "merge.saesteer.driver", f'"{sys.executable}" -P -m saesteer merge-versions %A %B %P')
