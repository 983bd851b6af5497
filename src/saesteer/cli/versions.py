"""Commands that share results as versions."""

from collections.abc import Callable
from pathlib import Path

import typer

from saesteer.cli.application import CONFIG, Configfile, SomeExperiments, app, configuration, refuse_while_running, run_of


@app.command()
def record(experiments: SomeExperiments = None, configfile: Configfile = CONFIG) -> None:
    """Put finished results under DVC and write their provenance: what `push` does before it uploads."""
    from saesteer.sharing import publish

    tracked = _publish(publish.record, experiments, configfile)
    typer.echo(f"recorded {len(tracked)} folders and files; `dvc push` uploads them, `git add` and commit the *.dvc files and provenance/")


@app.command()
def push(experiments: SomeExperiments = None, configfile: Configfile = CONFIG) -> None:
    """Share finished results: upload the data, then commit and push the files in git that name it."""
    from saesteer.sharing import publish

    typer.echo(f"published {len(_publish(publish.push, experiments, configfile))} folders and files")


def _publish(publish: Callable[[Path, list[str]], list[Path]], experiments: list[str] | None, configfile: Path) -> list[Path]:
    from saesteer.workflow.algorithms import check_lock

    check_lock()  # provenance names the code's digest, and rows are only as old as its versions say
    refuse_while_running()
    return publish(Path(), configuration(experiments, configfile))


@app.command()
def pull(experiments: SomeExperiments = None, configfile: Configfile = CONFIG) -> None:
    """Fetch the results that this commit names, check them, and tell Snakemake what is up to date."""
    from saesteer.sharing import fetch
    from saesteer.workflow.outputs import planned_outputs

    refuse_while_running()
    examined = fetch.pull(Path(), experiments or [], lambda name: planned_outputs(run_of(name, configfile)))
    if not examined:
        typer.echo("nothing was published at this commit: run the workflow, then `saesteer push`")
    for name, examination in examined.items():
        typer.echo(f"{name}: {len(examination.agreeing)} outputs adopted, {len(examination.refused)} to be made again")
        for output, reason in examination.refused.items():
            typer.echo(f"  {output}: {reason}")


@app.command("merge-versions", hidden=True)
def merge_versions(ours: Path, theirs: Path) -> None:
    """What git calls to merge *.dvc files."""
    from saesteer.sharing import dvc_metadata

    refuse_while_running()
    dvc_metadata.merge_versions(ours, theirs)
