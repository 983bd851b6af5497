"""Every command given something a user can get wrong: one message that says what is wrong, exit code 1, no traceback."""

import ast
import builtins
import re
import shlex
import shutil
import socket
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner
from workflow_folder import Folder

from saesteer.cli import app
from saesteer.sources import http

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped configuration and world, nothing computed; every address is a closed port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/world").symlink_to(ROOT / "data/world")
    addresses = dict.fromkeys(("neuronpedia", "neuronpedia_exports", "github"), closed)
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump({"experiments": ["micro"], "addresses": addresses}))
    explained = {"extends": "gemma-2-2b", "features": {"kind": "explained", "pattern": "word", "list": "config/features/word.json"}}
    (tmp_path / "config/experiments/explained.yaml").write_text(yaml.safe_dump(explained))
    misspelt = explained | {"saes": {"id": "layer_{layer}/width_16k/canonicle"}}
    (tmp_path / "config/experiments/misspelt.yaml").write_text(yaml.safe_dump(misspelt))
    (tmp_path / "config/README.md").write_text("old")
    (tmp_path / "config/broken.yaml").write_text("experiments: [micro\n")
    (tmp_path / "config/no_list.yaml").write_text("experiments: micro\n")
    (tmp_path / "a_file").write_text("not a folder")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(http.tenacity, "wait_exponential", lambda **_: lambda _: 0.0)  # not the seconds that an outage is waited for
    monkeypatch.setattr(http.random, "uniform", lambda *_: 0.0)
    return tmp_path


CASES = {
    "features explained": "explanations of gemma-2-2b/.*: connection failed or cut",
    "features gemma-2-2b": "p1/gemma_2b: .*could not be downloaded .connection failed.*put the file at",
    "features micro": "features of kind explicit need no list",
    "features nothing": "experiment 'nothing': there is no file config/experiments/nothing.yaml",
    "check mikro": "there is no file config/experiments/mikro.yaml. Did you mean 'micro'?",
    "features misspelt": "release gemma-scope-2b-pt-res-canonical has no SAE",
    "features micro --configfile nowhere.yaml": "there is no nowhere.yaml here: go to the folder of a project",
    "features micro --configfile config/broken.yaml": "config/broken.yaml is not readable as YAML",
    "check --configfile config/no_list.yaml": "experiments: a list belongs here, in brackets: .a, b. .given: 'micro'.",
    "init micro --model data/world/model --saes data/world/saes": "config/experiments/micro.yaml is there already, and is not overwritten",
    "init": "config/config.yaml is there already: this folder is a project",
    "init own --model data/world/model": "a new experiment needs its model and SAEs: saesteer init own --model FOLDER --saes FOLDER",
    "run micro -n": "there is no Snakefile here: `saesteer init`",
    "init own --model data/world/model --saes data/world/saes --texts a_file": "a_file is not readable as Parquet .*: texts come",
    "init own --model data/world --saes data/world/saes": "data/world/config.json is not readable as JSON",
    "init own --model data/world/model --saes config": "config: there is no cfg.json below it",
    "check misspelt": "problem +misspelt: SAEs: release .* has no SAE",
    "export micro out": "max_activating_examples: sae-lens names no Neuronpedia source",
    "export micro out --source a/{layer}": "data/micro holds no max_activating_examples: run the workflow of experiment micro",
    "export micro out --source a/b": "source 'a/b' is the same for layers 2, 6: write {layer} in it",
    "export micro out --source a/{lay}": "source 'a/{lay}': braces are for {layer} only",
    "upload features micro": "upload features: give --source MODEL/SOURCE of your own source set",
    "axbench micro out": "micro compares no methods",
    "axbench tiny-methods out": "data/tiny-methods holds no generations: run the workflow of experiment tiny-methods",
    "import data out --protocol nothing": "experiment 'nothing': there is no file",
    "import config/broken.yaml out": "config/broken.yaml: tables are read from .parquet, .csv, .jsonl files: save it as one of these",
    "import data out": "data: P1's texts are read from a folder with one file per factor",
    "vectors tiny-methods diffmean --layer 3 --output v.safetensors": "tiny-methods holds no fits: run the workflow of experiment",
    "evaluate tiny-methods diffmean/sea --layer 3 --tasks any": "tiny-methods holds no fits: run the workflow of experiment",
    "recommend micro sea --less --comparison micro-methods": "leave out --less or --comparison",
    "recommend micro sea --prompts a.txt": "add --less, or leave it out",
    "recommend micro seas --less": "'seas' is none of them. Did you mean 'sea'?",
    "recommend sea micro": "experiment 'sea': there is no file .*\n'micro' is one: name it first",
    "recommend mikro sea": "^experiment 'mikro': there is no file .* Did you mean 'micro'",
    "recommend micro sea": "there is no data/micro/tables/features.parquet: compute the scores first",
    "explain micro": "micro has no activations: data/micro/activations/layers_02-06.json is missing; run its workflow first",
    "explain micro --features 2/4": "--features 2/4: micro has no such feature; write LAYER/FEATURE, e.g. 2/3",
    "export-vector nothing 3/5 --to gguf --output v.gguf": "experiment 'nothing': there is no file",
    "export-vector tiny-all 6/27 --to gguf --output v.gguf": "tiny-all generates no texts, it is of kind scores",
    "export-vector micro 6/27 --to gguf --output v.gguf --concept seas": "only, and 'seas' is none of them. Did you mean 'sea'",
    "steer nothing 3/5 hi --factor 1": "experiment 'nothing': there is no file",
    "steer micro 9/1 hi": "there is no layer '9' here. Known: 2, 6",
    "steer micro 6/9999": "feature 6/9999 does not exist: the SAE has features 0 to 1023",
    "steer 6/548 micro": "'6/548' cannot name an experiment: .*\n'micro' is one: name it first",
    "steer micro 6/5*1,2/5*1": "6/5.1,2/5.1: name features of one layer, each once",
    "steer micro 6/5*x": "'x' is no decimal number",
    "steer micro 6/5,6/7 --edit ablation": "several features at once are added: leave out --edit ablation",
    "serve micro": "data/micro holds no tables/features.parquet: run the experiment first",
    "report micro": "data/micro holds no tables/features.parquet: run the experiment first",
    "agreement gemma-2-9b-it-concept500": "has no judge .judge.kind none., so none of its texts is rated",
    "agreement tiny-all": "tiny-all generates no texts, it is of kind scores",
    "agreement micro": "data/micro/judge holds the ratings of 0 judges",
    "rate micro": "data/micro/tables/features.parquet is missing: run the workflow of experiment micro first",
    "rate tiny-all": "tiny-all generates no texts, it is of kind scores",
    "rate gemma-2-9b-it-concept500": "has no judge .judge.kind none., so none of its texts is rated",
    "saes [": "is not a regular expression",
    "gc micro": "data/micro/activations/layers_02-06.json is missing, so a job failed or has not run",
    "record": "Snakemake cannot say what is up to date",
    "push": "git config .* failed",
    "pull": "git ls-files .* failed",
    "pull micro": "nothing was published of micro",
    "merge-versions a.dvc b.dvc": "git ls-files .* failed",
    "algorithms --keep engine.nothing": "no row depends on a module of this name",
    "config-docs --check": "config/README.md is not in step with the settings",
    "config-docs --folder a_file/below": "Not a directory: 'a_file/below'",
}
"""Command -> what its message says, as a regular expression."""


@pytest.mark.parametrize("command", CASES)
def test_one_message_and_no_traceback(folder: Path, command: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert re.search(CASES[command], result.output), result.output


@pytest.mark.parametrize(
    "command",
    [
        "recommend micro sea",
        "export-vector micro 6/27 --to gguf",
        "vectors tiny-methods diffmean",
        "evaluate tiny-methods diffmean/sea --tasks any",
        "rate micro",
    ],
)
def test_a_folder_is_no_file_to_write(folder: Path, command: str) -> None:
    result = CliRunner().invoke(app, [*command.split(), "--output", "config"])
    assert result.exit_code == 2
    assert "'--output'" in result.output
    assert "'config' is a directory" in result.output


def test_a_new_project_says_of_a_concept_what_any_other_says(folder: Path) -> None:
    """What the experiment reads of the package is copied there first."""
    (folder / "data/world").unlink()
    assert "knows its topics only" in CliRunner().invoke(app, ["recommend", "micro", "ocean"]).output


@pytest.mark.slow
def test_the_command_that_a_message_gives_can_be_run(folder: Path) -> None:
    """Of an experiment that the configuration does not name, whose pilot a recommendation reads too."""
    message = CliRunner().invoke(app, ["recommend", "smollm2", "sea"]).output
    command = shlex.split(message.partition("compute the scores first: ")[2])
    shown = Folder.existing(folder).call(*command, "-n", "--snakefile", str(ROOT / "Snakefile"))
    assert shown.returncode == 0, shown.stderr
    assert all(rule in shown.stdout + shown.stderr for rule in ("features_table", "pilot"))


def test_every_command_is_among_them() -> None:
    names = {(command.name or command.callback.__name__).replace("_", "-") for command in app.registered_commands}
    assert names - {command.split()[0] for command in CASES} == {"unlock"}  # its refusal: test_locks.py


def test_every_error_of_the_package_has_the_one_base() -> None:
    """Abstains is no error: a method has nothing to offer for a concept."""
    classes = [
        node
        for file in (ROOT / "src/saesteer").rglob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    raised = {node.name: {base.id for base in node.bases if isinstance(base, ast.Name)} for node in classes}
    builtin = {name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)}
    ours = {"SaesteerError"}
    while new := {name for name, bases in raised.items() if bases & ours} - ours:
        ours |= new
    assert len(ours) >= 12
    assert {name for name, bases in raised.items() if bases & builtin} - ours == {"Abstains"}
