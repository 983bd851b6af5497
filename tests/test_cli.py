"""The saesteer command."""

from pathlib import Path

from typer.testing import CliRunner

from saesteer.cli import app


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_config_docs_check_fails_when_out_of_step(tmp_path: Path) -> None:
    assert run("config-docs", "--folder", str(tmp_path))[0] == 0
    assert run("config-docs", "--folder", str(tmp_path), "--check")[0] == 0
    (tmp_path / "README.md").write_text("old")
    code, output = run("config-docs", "--folder", str(tmp_path), "--check")
    assert code == 1
    assert "README.md is not in step with the settings: run `saesteer config-docs`" in output
