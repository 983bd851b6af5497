"""What a run shows in a terminal: how many jobs are done, errors, and at the end what was found and what to do next."""

import json
import subprocess
from pathlib import Path

import pytest
from report_folders import workflow_in
from workflow_folder import ROOT, Folder

from saesteer.run import Run
from saesteer.settings import load_experiment
from saesteer.site import headline

SNAKEFILE = """
from saesteer.workflow.terminal import show_progress_only

show_progress_only(logger)

onsuccess:
    print("found")

rule all:
    input: "a", "b"

rule one:
    output: "{name}"
    shell: "test {wildcards.name} != bad && touch {output}"
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "Snakefile").write_text(SNAKEFILE)
    return Folder.existing(folder).call("snakemake", "--cores", "1", *arguments)


def test_a_run_shows_its_progress_and_ends_with_what_was_found(tmp_path: Path) -> None:
    done = run(tmp_path)
    counts = "".join(f"{n} of 3 steps ({share}%) done\n" for n, share in ((1, 33), (2, 67), (3, 100)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "found\n", counts)
    (log,) = (tmp_path / ".snakemake/log").iterdir()
    assert "rule one:" in log.read_text()
    assert run(tmp_path).stderr == "Nothing to be done (all requested files are present and up to date).\n"
    failed = run(tmp_path, "bad")
    assert failed.returncode == 1
    assert "Error in rule one:" in failed.stderr


def test_what_is_refused_is_a_sentence_and_no_traceback(tmp_path: Path) -> None:
    for name in ("Snakefile", "rules", "scripts", "src"):
        (tmp_path / name).symlink_to(Path(__file__).parents[1] / name)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("experiments: [nosuch]\n")
    done = Folder.existing(tmp_path).call("snakemake", "--cores", "1", "-n")
    assert done.returncode == 1
    (said,) = (done.stdout + done.stderr).splitlines()
    assert said.startswith("experiment 'nosuch': there is no file config/experiments/nosuch.yaml. Known: ")


def test_what_was_found_is_that_of_the_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("It helps", "1.6× [1.2, 2.0]", "yes, no"), ("It is rare", "4% (2 of 50; 1 without)", "no")]
    monkeypatch.setattr(headline, "finding_rows", lambda numbers: rows if numbers == {"a": 1} else [])
    tiny = Run(workflow_in(tmp_path, "tiny"), "tiny", load_experiment("tiny", ROOT / "config/experiments"))
    tiny.data.mkdir(parents=True)
    assert list(headline.finished_words(tiny)) == []
    monkeypatch.setattr(headline, "planned_outputs", lambda _: [str(tiny.data)])
    (tiny.data / "metrics.json").write_text(json.dumps({"a": 1}))
    first, *found, last = headline.finished_words(tiny)
    assert first == f"tiny is finished: its figures and tables are in {tiny.figures}."
    assert found == ["  yes, no: It helps: 1.6× [1.2, 2.0]", "  no: It is rare: 4% (2 of 50; 1 without)"]
    assert last.startswith("Next: ")
    assert last.endswith("saesteer report tiny")
