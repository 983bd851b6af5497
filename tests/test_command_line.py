"""What the command line shows before it does anything: commands in groups, the version, make's targets."""

import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from snakemake.cli import get_argument_parser
from typer.testing import CliRunner

from saesteer.cli import app

ROOT = Path(__file__).parents[1]


def shown(*arguments: str) -> str:
    return CliRunner().invoke(app, arguments).output


def test_every_command_is_in_a_group_and_maintenance_comes_last() -> None:
    text = shown("--help")
    places = [text.index(f"─ {group} ─") for group in ("Start", "Steer", "Share", "Maintain")]
    assert places == sorted(places)
    assert "─ Commands ─" not in text
    assert re.findall(r"^│ ([a-z-]+) ", text[places[0] :], re.MULTILINE)[:1] == ["recommend"]
    assert re.findall(r"^│ ([a-z-]+) ", text[places[0] :], re.MULTILINE)[-1:] == ["unlock"]


def test_the_version_and_the_shells_completion() -> None:
    assert shown("--version") == f"saesteer {metadata.version('saesteer')}\n"
    assert "--install-completion" in shown("--help")


def test_make_help_lists_every_target() -> None:
    listed = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert {name for line in listed.splitlines() for name in line[:22].split()} == set(targets[1].split())


@pytest.mark.parametrize(
    "given",
    [["--config", "part_seconds=5", "-n"], ["--config=part_seconds=5", "-n"], ["-n", "-C", "part_seconds=5"], ["-n", "-Cpart_seconds=5"]],
)
def test_values_of_the_configuration_leave_the_named_experiments(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake heeds the last --config alone."""
    monkeypatch.chdir(tmp_path)
    Path("Snakefile").touch()
    commands: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    assert CliRunner().invoke(app, ["run", "micro", *given]).exit_code == 0
    understood = get_argument_parser().parse_args(commands[0][3:])
    assert understood.config == ["experiments=[micro]", "methods=[]", "part_seconds=5"]
    assert understood.dryrun
