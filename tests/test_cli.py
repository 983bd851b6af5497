"""The saesteer command, and what is generated into the README."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.files import write_json
from saesteer.report import readme
from saesteer.report.headline import headline_markdown
from saesteer.settings import SettingsError

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A step with one named and one unnamed part."""
    step = tmp_path / "data/micro/sweep"
    for name in ("named", "unnamed"):
        path = step / f"aa/layer_05/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    entry = {"fingerprint": "aa", "parts": [{"path": "aa/layer_05/named.parquet"}]}
    write_json(step / "layers_05-05.json", {"step": "sweep", "layers": {"5": entry}})
    return tmp_path / "data"


def test_gc_lists_and_removes_only_what_no_manifest_names(store: Path) -> None:
    code, output = run("gc", "--data", str(store))
    assert code == 0
    assert "unnamed.parquet" in output
    assert "1 files could be removed" in output
    assert (store / "micro/sweep/aa/layer_05/unnamed.parquet").exists()
    run("gc", "--data", str(store), "--remove")
    assert [path.name for path in store.rglob("*.parquet")] == ["named.parquet"]


def test_gc_leaves_steps_alone_whose_manifests_are_missing(store: Path) -> None:
    """After a kill there may be parts and no manifest yet: they are the work that the next run goes on from."""
    (store / "micro/sweep/layers_05-05.json").unlink()
    assert "0 files" in run("gc", "--data", str(store), "--remove")[1]
    assert len(list(store.rglob("*.parquet"))) == 2


def test_config_docs_check_fails_when_out_of_step(tmp_path: Path) -> None:
    assert run("config-docs", "--folder", str(tmp_path))[0] == 0
    assert run("config-docs", "--folder", str(tmp_path), "--check")[0] == 0
    (tmp_path / "README.md").write_text("old")
    code, output = run("config-docs", "--folder", str(tmp_path), "--check")
    assert code == 1
    assert "README.md is not in step with the settings: run `saesteer config-docs`" in output


def test_readme_shows_the_kept_results() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.with_blocks(text, readme.blocks(ROOT)) == text, "run `make readme`"
    assert headline_markdown(json.loads((ROOT / "docs/results/tiny.json").read_text())) in text


PAGE = """# Speed
Written by `A=1 python a.py --b`; on a machine.

In short: 3 times.

## Output score
numbers
## Share of the machine
more

# Gemma-2-2B's shapes

Written by `python c.py`.
"""


def test_readme_lists_each_measurement_with_its_command_and_refuses_one_that_says_nothing() -> None:
    with pytest.raises(SettingsError, match="Gemma-2-2B's shapes: a section says"):
        readme.speed_markdown(PAGE)
    shown = readme.speed_markdown(PAGE + "\nIn short: 4 s.\n")
    assert shown.startswith("### Output score\nnumbers\n")
    assert "| [Speed](benchmarks/RESULTS.md#speed) | `A=1 python a.py --b` | 3 times. |" in shown
    assert "| [Gemma-2-2B's shapes](benchmarks/RESULTS.md#gemma-2-2bs-shapes) | `python c.py` | 4 s. |" in shown
    assert "more" not in shown


def test_readme_without_its_markers_is_refused() -> None:
    with pytest.raises(SettingsError, match="no lines <!-- headline -->"):
        readme.with_blocks("# Title", {"headline": "| a |"})


@pytest.mark.slow
def test_the_readmes_python_example_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in example.splitlines() if line and "import" not in line]) <= 10
    (tmp_path / "data").symlink_to(ROOT / "data")
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "output_score" in done.stdout


def test_every_path_in_the_readmes_map_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert len(linked) >= 5
    assert [path for path in linked if not (ROOT / path).exists()] == []
