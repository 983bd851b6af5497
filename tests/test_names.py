"""Names of experiments, from wherever they come: what is no name is refused in a sentence, before it is part of a path or a pattern."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner
from workflow_folder import Folder

from saesteer.cli import app
from saesteer.settings import SettingsError, load_experiment, load_workflow

ROOT = Path(__file__).parents[1]
ALLOWED = r"letters, digits, points, hyphens and underscores, a letter or digit first, can"

BAD = (
    "x(",
    "../outside",
    "/tmp/outside",
    "..",
    "a/b",
    "",
    "tiny\n",
    "tiny|micro",
)

COMMANDS = (
    "export {} out",
    "upload list {}",
    "axbench {} out",
    "import config out --protocol {}",
    "import config out --judge {}",
    "vectors {} diffmean --layer 3 --output v.safetensors",
    "export-vector {} 3/5 --to gguf --output v.gguf",
    "steer {} 3/5 hi --factor 1",
    "evaluate {} diffmean/sea --layer 3 --tasks any",
    "recommend {} sea",
    "recommend micro sea --comparison {}",
    "report {}",
    "agreement {}",
    "gc {}",
    "check {}",
    "features {}",
    "init {} --model data/world/model --saes data/world/saes",
    "record {}",
    "push {}",
    "pull {}",
)


@pytest.mark.parametrize("name", BAD)
def test_the_configuration_names_and_an_experiment_extends_nothing_else(name: str, tmp_path: Path) -> None:
    for key in ("experiments", "methods"):
        with pytest.raises(SettingsError, match=rf"{key}\.0: {re.escape(repr(name))} cannot name an experiment: {ALLOWED}"):
            load_workflow({"experiments": ["tiny"], key: [name]})
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({"extends": name or "..."}))
    with pytest.raises(SettingsError, match=rf"cannot name an experiment: {ALLOWED}"):
        load_experiment("one", tmp_path)


@pytest.mark.parametrize("name", BAD)
def test_no_command_takes_anything_else(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command refuses what leads out of the folder, and one of them all else: they share what refuses."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS if name.endswith("/outside") else COMMANDS[:1]:
        result = CliRunner().invoke(app, [name if word == "{}" else word for word in command.split()])
        assert isinstance(result.exception, SystemExit), (command, result.exception)
        assert [path.name for path in tmp_path.iterdir()] == ["config"]
        assert result.output == f"{name!r} cannot name an experiment: {ALLOWED}\n", command


@pytest.mark.slow
def test_a_point_in_a_name_is_a_point_in_the_rules(tmp_path: Path) -> None:
    """Where it stood for any character, two rules would make the ratings of the other experiment."""
    own, experiments = tmp_path / "config.yaml", tmp_path / "experiments"
    shutil.copytree(ROOT / "config/experiments", experiments)
    judge = {"kind": "model", "model": {"path": "data/world/model"}}
    (experiments / "one-name.yaml").write_text(yaml.safe_dump({"extends": "micro"}))
    (experiments / "one.name.yaml").write_text(yaml.safe_dump({"extends": "micro", "judge": judge}))
    own.write_text(
        yaml.safe_dump({"experiments": ["one-name", "one.name"], "experiments_dirs": [str(experiments)], "data_dir": str(tmp_path)})
    )
    command = ["snakemake", "--dry-run", "--nolock", str(tmp_path / "one-name/judge/layers_02-06.json"), "--configfile", str(own)]
    done = Folder.existing(ROOT).call(*command)
    assert done.returncode == 0, done.stdout + done.stderr
