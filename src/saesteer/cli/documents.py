"""Commands that write generated files of the repository."""

from pathlib import Path
from typing import Annotated

import typer

from saesteer.cli.application import app
from saesteer.core.errors import SaesteerError


@app.command("config-docs")
def config_docs(
    folder: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("config"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the files differ.")] = False,
) -> None:
    """Write config/schema.json and config/README.md from the settings."""
    from saesteer.core.files import write_text
    from saesteer.report.reference.config_docs import readme_text, schema_text

    for path, text in ((folder / "schema.json", schema_text()), (folder / "README.md", readme_text())):
        if not check:
            write_text(path, text)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise SaesteerError(f"{path} is not in step with the settings: run `saesteer config-docs`")


@app.command()
def algorithms(
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Module that was edited without any row changing, as engine.cache or 'core.*'; may be repeated."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the code differs from the lock.")] = False,
) -> None:
    """Lock the versions of all modules that rows depend on; refuse one that was edited under the same version, unless it is to be kept."""
    from saesteer.workflow.algorithms import check_lock, write_lock

    if check:
        check_lock()
    else:
        for module, change in write_lock(keep or []).items():
            typer.echo(f"locked: {module} (the lock before: {change})")
