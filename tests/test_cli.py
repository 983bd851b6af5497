"""The saesteer command."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from saesteer.cli import app
from saesteer.core.files import write_json


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
