"""Commands that look after the repository and its folders."""

from pathlib import Path
from typing import Annotated

import typer

from saesteer.cli.application import CONFIG, Configfile, SomeExperiments, commands, refuse_while_running, run_of, workflow_of
from saesteer.core.errors import SaesteerError, SettingsError

command = commands("Maintain")


@command()
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


@command("config-docs")
def config_docs(
    folder: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("config"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the files differ.")] = False,
) -> None:
    """Write config/README.md, and the JSON schemas beside it, from the settings."""
    from saesteer.core.files import write_text
    from saesteer.reference.config_docs import texts

    for path, text in ((folder / name, text) for name, text in texts().items()):
        if not check:
            write_text(path, text)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise SaesteerError(f"{path} is not in step with the settings: run `saesteer config-docs`")


@command()
def gc(
    experiments: SomeExperiments = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove them; without this they are only listed.")] = False,
    configfile: Configfile = CONFIG,
) -> None:
    """List the parts that no manifest of a finished experiment names, and with --remove remove them. None named: of all finished ones."""
    from saesteer.workflow.outputs import unneeded_files

    if remove:
        refuse_while_running()  # parts of an unfinished run are named by no manifest yet
    workflow = workflow_of(configfile)
    every_name = dict.fromkeys(path.stem for folder in workflow.all_experiments_dirs for path in sorted(folder.glob("*.yaml")))
    names = experiments or [name for name in every_name if (workflow.data_dir / name).is_dir()]
    parts = []
    for name in names:
        try:
            parts += unneeded_files(run_of(name, configfile))
        except SettingsError as fault:  # such as an experiment of which only a part was ever wanted
            if experiments:
                raise
            typer.echo(f"{name} is left out: {fault}", err=True)
    for part in parts:
        typer.echo(f"{part.stat().st_size:>12} {part}")
        if remove:
            part.unlink()
    typer.echo(f"{len(parts)} files {'removed' if remove else 'could be removed (add --remove)'}")


@command()
def unlock(folder: Annotated[Path, typer.Option(help="Folder that the workflow runs in.")] = Path()) -> None:
    """Remove the lock that a killed run left behind; refuse while a run is alive on this machine."""
    locks = refuse_while_running(folder)
    if not locks:
        typer.echo(f"no run has left a lock in {folder.resolve()}")
    for lock in locks:
        lock.unlink()
        typer.echo(f"removed the lock of a run that is gone: {lock}")
