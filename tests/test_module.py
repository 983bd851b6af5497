"""The workflow as a module of another one, as Snakemake's catalogue has it used: from a folder that has nothing of saesteer."""

import json
import subprocess
from pathlib import Path

import pytest
from workflow_folder import ROOT, Folder

pytestmark = pytest.mark.slow

OF_ANOTHER = """
rule count:
    output: "letters.txt"
    script: "count.py"

module saesteer:
    snakefile: "ROOT/Snakefile"
    config: {"experiments": ["micro"]}

use rule * from saesteer as PREFIX*

rule everything:
    default_target: True
    input: "letters.txt", rules.PREFIXall.input
"""


class Importing(Folder):
    """A folder with another's workflow, which uses saesteer's rules, under other names if there is a prefix."""

    def __init__(self, path: Path, prefix: str = "") -> None:
        path.mkdir()
        self.path, self.root, self.snakefile = path, ROOT, str(path / "Snakefile")
        (path / "count.py").write_text("open(snakemake.output[0], 'w').write('12')")
        text = OF_ANOTHER if prefix else OF_ANOTHER.replace(" as PREFIX*", "")
        (path / "Snakefile").write_text(text.replace("PREFIX", prefix).replace("ROOT", str(ROOT)))

    def call_snakemake(self, *arguments: str) -> str:
        done: subprocess.CompletedProcess[str] = self.call("snakemake", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.mark.parametrize("prefix", ["", "of_saesteer_"])
def test_its_rules_are_planned_in_a_foreign_folder(prefix: str, tmp_path: Path) -> None:
    folder = Importing(tmp_path / "foreign", prefix)
    planned = folder.call_snakemake("-n")
    for rule in ("pin", "convert_saes", "generations", "outcomes", "figure"):
        assert f"rule {prefix}{rule}:" in planned
    counting = planned.split("rule count:")[1].split("rule ")[0]
    assert "log:" not in counting  # which only rules of saesteer's own are given
    assert not list(folder.path.rglob("*.partial"))
    assert "comes with saesteer: copied here" in planned
    assert "comes with saesteer" not in folder.call_snakemake("-n")


@pytest.mark.exhaustive
def test_it_runs_in_a_foreign_folder(tmp_path: Path) -> None:
    folder = Importing(tmp_path / "foreign", "of_saesteer_")
    folder.call_snakemake("--cores", "2")
    assert json.loads((folder.path / "data/micro/metrics.json").read_text())["features"]["n"] == 8
    assert (folder.path / "figures/micro/overview.pdf").is_file()
    assert (folder.path / "letters.txt").is_file()
    assert "Nothing to be done" in folder.call_snakemake("-n")
    folder.call_snakemake("--report", "report.html")
    assert (folder.path / "report.html").stat().st_size > 100_000
