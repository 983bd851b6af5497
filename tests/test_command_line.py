"""What the command line shows before it does anything: commands in groups, the version, make's targets."""

import re
import subprocess
from importlib import metadata
from pathlib import Path

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
