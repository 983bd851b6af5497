"""The wheel: that it holds the whole workflow, and that a folder elsewhere is all that a user needs besides."""

import datetime
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from workflow_folder import ROOT

import saesteer

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LARGEST = 20_000_000


def build(source: Path, kind: str, folder: Path) -> Path:
    """What `pip wheel` and `python -m build` have the build backend make of a source tree."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By way of the source distribution, as pip does where there is no wheel."""
    folder = tmp_path_factory.mktemp("built")
    with tarfile.open(build(ROOT, "sdist", folder / "sdist")) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.glob("saesteer-*")
    return build(source, "wheel", folder / "wheel")


def in_git(*places: str) -> dict[str, Path]:
    """Path -> file, of what git keeps, or would keep, below some places."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    listed = subprocess.run([*listing, "--", *places], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: ROOT / name for name in listed.split("\0") if (ROOT / name).is_file()}


def test_it_holds_every_file_of_the_package_and_the_workflow(wheel: Path) -> None:
    options = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    placed = {*options["sources"], *options["force-include"]} - {"src"}
    assert {"Snakefile", "config", "data/world", "rules", "scripts", "slurm"} <= placed
    expected = {f"saesteer/shipped/{name}": file for name, file in in_git(*placed).items()}
    expected |= {name.removeprefix("src/"): file for name, file in in_git("src").items()}
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        executable = {name for name in held if archive.getinfo(name).external_attr >> 16 & 0o100}
    assert set(held) == set(expected)
    assert [name for name, file in expected.items() if held[name] != file.read_bytes()] == []
    assert {"saesteer/shipped/slurm/bin/sbatch", "saesteer/shipped/slurm/bin/sacct"} <= executable
    assert wheel.stat().st_size < LARGEST


def test_all_that_say_the_version_say_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    (newest, *_) = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {PYPROJECT["project"]["version"], citation["version"], newest, saesteer.__version__} == {newest}
    assert isinstance(citation["date-released"], datetime.date)


def test_the_six_papers_are_cited() -> None:
    named, cited, bibtex = (
        re.findall(r"arxiv.org/abs/(\d+\.\d+)|eprint = {(.*)}", (ROOT / file).read_text(encoding="utf-8"))
        for file in ("docs/architecture.md", "CITATION.cff", "CITATION.bib")
    )
    assert [number for number, _ in named] == [number for number, _ in cited] == [number for _, number in bibtex]


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel, and a user who has nothing else: a home and a folder that are empty."""

    programs: Path
    home: Path
    folder: Path

    def run(self, *command: str, code: int = 0) -> str:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment = kept | {"HOME": str(self.home), "PATH": f"{self.programs}:/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(
            list(command), cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == code, f"{command}\n{done.stdout}"
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Dependencies are those of this environment, by a line that adds their folder, so that this one's editable saesteer is not seen."""
    above = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(above / "venv")], check=True)
    programs, uv = above / "venv/bin", Path(sys.executable).parent / "uv"
    into = ["--python", str(programs / "python"), "--no-index", "--no-deps"]
    subprocess.run([str(uv), "pip", "install", "--quiet", *into, str(wheel)], check=True)
    (libraries,) = (above / "venv/lib").glob("python*/site-packages")
    (libraries / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    snakemake = programs / "snakemake"
    snakemake.write_text(f"#!{programs / 'python'}\nfrom snakemake.cli import main\nmain()\n")
    snakemake.chmod(0o755)
    for name in ("home", "folder"):
        (above / name).mkdir()
    return Installation(programs, above / "home", above / "folder")


@pytest.mark.slow
def test_init_makes_an_empty_folder_a_project(installed: Installation) -> None:
    assert "installed" not in (shown := installed.run("saesteer", "check", code=1))
    assert "`saesteer init` makes this folder a project" in shown
    assert str(ROOT) not in installed.run("python", "-c", "import saesteer; print(saesteer.__file__)")
    installed.run("saesteer", "init")
    (installed.folder / "config/config.yaml").write_text("experiments: [micro]\n")
    assert "micro: files: 8 features in 2 layers" in installed.run("saesteer", "check")
    assert "is there already" in installed.run("saesteer", "init", code=1)
    assert (installed.folder / "config/config.yaml").read_text() == "experiments: [micro]\n"
    status = installed.run("git", "status", "--porcelain", "--untracked-files=all")
    assert "Snakefile" in status
    assert ".dvc/config" in status
    planned = installed.run("snakemake", "-n", "--cores", "2")
    assert "generations" in planned
    assert str(ROOT) not in planned
    assert "method_tables" in installed.run("saesteer", "run", "micro-methods", "-n", "--cores", "1")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_everything_works_in_that_project(installed: Installation) -> None:
    if not (installed.folder / "Snakefile").exists():
        installed.run("saesteer", "init")
    (installed.folder / "config/config.yaml").write_text("experiments: [micro]\n")
    installed.run("saesteer", "run", "micro", "--cores", "2")
    installed.run("snakemake", "--cores", "2")
    assert "Nothing to be done" in installed.run("snakemake", "-n")
    assert json.loads((installed.folder / "data/micro/metrics.json").read_text())["features"]["n"] == 8
    assert (installed.folder / "figures/micro/overview.pdf").is_file()
    assert "medicine" in installed.run("saesteer", "recommend", "micro", "medicine")
    installed.run("saesteer", "report", "micro")
    assert (installed.folder / "figures/micro/report/index.html").is_file()
    assert "factor 4" in installed.run("saesteer", "steer", "micro", "6/818", "People say", "--factor", "4", "--samples", "1")
    _shares(installed)


def _shares(installed: Installation) -> None:
    """Results go through a remote into a colleague's clone, which has nothing left to do."""
    for key, value in {"user.name": "A user", "user.email": "user@example.org"}.items():
        installed.run("git", "config", "--global", key, value)
    installed.run("python", "-m", "dvc", "remote", "add", "--default", "storage", str(installed.home / "store"))
    installed.run("git", "add", "--all")
    installed.run("git", "commit", "--quiet", "--message", "A project")
    assert "published" in installed.run("saesteer", "push")
    installed.run("git", "clone", "--quiet", str(installed.folder), str(installed.home / "clone"))
    colleague = Installation(installed.programs, installed.home, installed.home / "clone")
    assert " 0 to be made again" in colleague.run("saesteer", "pull")
    assert "Nothing to be done" in colleague.run("snakemake", "-n")
