"""Folders that tests run the workflow in: with their own configuration, and where needed their own copy of the code."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from warm_python import server

from saesteer.core.store import read_rows
from saesteer.core.texts import SINGLE_FEATURE, of_features, of_fits
from saesteer.steps.step import step_tables

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHIPPED = ("data/world", "data/public", "docs")
"""What experiments of the default configuration read, beside config/."""
WITHOUT_SHIPPED = shutil.ignore_patterns("world*", "public")
"""For copies of a folder in which these are links already."""
OF_ONE_TEST = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR", "TEST_JUDGE_KEY")
"""Variables that a process of pytest sets as it goes on, importing parts of torch the second: no library reads them when it is imported, so
that the warm process need not be started anew."""
GPU_STEPS = ("activations", "logit_lens", "output_score", "generations", "perplexity")
ALL_STEPS = step_tables()
MAIN_STEPS = {name: table for name, table in ALL_STEPS.items() if name not in ("explanations", "pilot", "effects", "fits", "damage")}
"""The steps of the main job, which names no features and has no pilot."""
PER_FEATURE = {"max_activating_examples", "concepts", "logit_lens", "input_score", "output_score"}
PER_GENERATION = {"generations", "gen_success", "perplexity", "judge"}


class Folder:
    """A folder that the workflow runs in: the shipped worlds and its own copy of the configuration; the code is `root`'s."""

    snakefile = "Snakefile"

    def __init__(self, path: Path, root: Path = ROOT) -> None:
        self.path, self.root = path, root
        if path != root:
            shutil.copytree(root / "config", path / "config")
            (path / "data").mkdir()
            for name in SHIPPED:
                (path / name).symlink_to(ROOT / name)

    @classmethod
    def existing(cls, path: Path) -> "Folder":
        """One that another process has set up."""
        folder = cls.__new__(cls)
        folder.path, folder.root = path, ROOT
        return folder

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which the package is this folder's own."""
        return {**os.environ, "PYTHONPATH": str(self.root / "src"), "PATH": f"{BIN}:{os.environ['PATH']}"}

    @property
    def warm(self) -> dict[str, str]:
        """The same, but that Python's programs, which are found by PATH, are forked from a process that has the libraries loaded."""
        environment = self.environment
        others = [place for place in environment["PYTHONPATH"].split(os.pathsep) if place != str(self.root / "src")]
        of_all_tests = {key: value for key, value in environment.items() if key not in OF_ONE_TEST}
        programs = server().programs(of_all_tests | {"PYTHONPATH": os.pathsep.join(others)}, self.root == ROOT and not others)
        return environment | {"PATH": f"{programs}:{environment['PATH']}"}

    def copy(self, path: Path) -> "Folder":
        twin = Folder(path, self.root)
        for name in ("data", "figures", "logs", ".snakemake"):
            shutil.copytree(self.path / name, path / name, dirs_exist_ok=True, symlinks=True, ignore=WITHOUT_SHIPPED)
        shutil.copytree(self.path / "config", path / "config", dirs_exist_ok=True)
        return twin

    def start(
        self, *arguments: str, experiment: str = "micro", cold: bool = False, variables: Mapping[str, str | None] = {}, **settings: Any
    ) -> subprocess.Popen[str]:
        """Start Snakemake, `cold` as users do. `variables` of the environment replace those here (None: not set); `settings` are keys of
        the workflow configuration."""
        environment = (self.environment if cold else self.warm) | variables
        values = [f"{key}={value}" for key, value in {"experiments": f"[{experiment}]", **settings}.items()]
        command = [str(BIN / "snakemake") if cold else "snakemake", "--snakefile", str(self.root / self.snakefile)]
        command += ["--directory", str(self.path), "--cores", "2", "--rerun-incomplete", *arguments, "--config", *values]
        return subprocess.Popen(
            command,
            cwd=self.path,
            env={name: value for name, value in environment.items() if value is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **settings: Any) -> tuple[int, str]:
        process = self.start(*arguments, **settings)
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

    def snakemakes_log(self) -> str:
        """Everything that Snakemake said of its latest run here, which its terminal shows the progress of."""
        return max((self.path / ".snakemake/log").iterdir()).read_text(encoding="utf-8")

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, in less time where it is one of Python's environment."""
        return subprocess.run(list(command), cwd=self.path, env=self.warm, capture_output=True, text=True, check=False)

    def values(self, experiment: str) -> dict[str, Any]:
        """What an experiment file says."""
        path = self.path / f"config/experiments/{experiment}.yaml"
        return yaml.safe_load(path.read_text()) if path.is_file() else {}

    def edit(self, experiment: str, **sections: Any) -> None:
        """Lay sections over an experiment file."""
        path = self.path / f"config/experiments/{experiment}.yaml"
        path.write_text(yaml.safe_dump(self.values(experiment) | sections))

    def parts(self, experiment: str = "micro", steps: Iterable[str] = MAIN_STEPS) -> dict[str, set[Path]]:
        """The parts of each step: those of the main job, if no others are named."""
        return {step: set((self.path / "data" / experiment / step).glob("*/layer_*/*.parquet")) for step in steps}

    def table(self, step: str, experiment: str = "micro") -> pl.DataFrame:
        return readable(read_rows(ALL_STEPS[step], sorted((self.path / "data" / experiment / step).glob("layers_*.json"))))


class Checkout(Folder):
    """A folder with its own copy of what git tracks or would track, so that code can be edited and committed there; without tests,
    benchmarks, and the public models' SAEs, which are four fifths of all bytes."""

    def __init__(self, path: Path) -> None:
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
            if not name.startswith(("tests/", "benchmarks/", "data/public/")) and (ROOT / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name)
        super().__init__(path, path)


def readable(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of texts by feature, or by method and concept."""
    if "target" not in rows.columns:
        return rows
    return of_features(rows) if (rows["method"] == SINGLE_FEATURE).all() else of_fits(rows)


def new_rows(before: Mapping[str, set[Path]], after: Mapping[str, set[Path]]) -> dict[str, pl.DataFrame]:
    """The rows in the parts that came in between, of each step that has any."""
    added = {step: sorted(parts - before[step]) for step, parts in after.items()}
    return {step: readable(pl.concat(map(pl.read_parquet, parts))) for step, parts in added.items() if parts}
