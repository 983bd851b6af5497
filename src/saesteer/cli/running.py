"""Commands around the workflow: locks, unused parts, checks, new experiments."""

import os
from pathlib import Path
from typing import Annotated

import typer

from saesteer.cli.application import CONFIG, Configfile, Experiments, SomeExperiments, app, refuse_while_running, run_of, workflow_of
from saesteer.core.errors import SaesteerError


@app.command()
def unlock(folder: Annotated[Path, typer.Option(help="Folder that the workflow runs in.")] = Path()) -> None:
    """Remove the lock that a killed run left behind; refuse while a run is alive on this machine."""
    for lock in refuse_while_running(folder):
        lock.unlink()
        typer.echo(f"removed the lock of a run that is gone: {lock}")


@app.command()
def gc(
    experiments: SomeExperiments = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove them; without this they are only listed.")] = False,
    configfile: Configfile = CONFIG,
) -> None:
    """List the parts that no manifest of a finished experiment names (of removed features, old settings, old models), and remove them when
    told to. Without names: of every experiment that has a folder of data."""
    from saesteer.workflow.outputs import unneeded_files

    if remove:
        refuse_while_running()  # parts of an unfinished run are named by no manifest yet
    workflow = workflow_of(configfile)
    every_name = (path.stem for folder in workflow.experiments_dirs for path in sorted(folder.glob("*.yaml")))
    names = experiments or [name for name in every_name if (workflow.data_dir / name).is_dir()]
    parts = [part for name in names for part in unneeded_files(run_of(name, configfile))]
    for part in parts:
        typer.echo(f"{part.stat().st_size:>12} {part}")
        if remove:
            part.unlink()
    typer.echo(f"{len(parts)} files {'removed' if remove else 'could be removed (add --remove)'}")


@app.command()
def check(experiments: Experiments, configfile: Configfile = CONFIG) -> None:
    """Say in seconds whether experiments can run here, and what they will take."""
    from saesteer.workflow.preflight import check_experiment

    n_problems = 0
    for name in experiments:
        run = run_of(name, configfile)
        for finding in check_experiment(name, run.experiment, run.workflow, os.environ):
            typer.echo(f"{finding.level:<9} {name}: {finding.about}: {finding.text}")
            n_problems += finding.level == "problem"
    if n_problems:
        raise SaesteerError(f"{n_problems} problems")


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the new experiment.")],
    model: Annotated[Path, typer.Option(help="Folder of the model.")],
    saes: Annotated[
        Path, typer.Option(help="Folder of its SAEs in sae-lens's form, a folder each; or their pattern, {layer} for the layer.")
    ],
    texts: Annotated[
        Path | None, typer.Option(help="Parquet file with a column text, on which the features' max-activating examples are computed.")
    ] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write an experiment file for a model and SAEs of one's own, filled in from their files; nothing is overwritten."""
    from saesteer.workflow.new_experiment import write_experiment

    path = write_experiment(name, model, saes, texts, workflow_of(configfile).experiments_dirs[0])
    typer.echo(f"wrote {path}: look it through, then `saesteer check {name}`")


@app.command()
def features(experiments: Experiments, configfile: Configfile = CONFIG) -> None:
    """Resolve feature sets that need the network (published lists, searches of explanations) into lists to commit."""
    from saesteer.sources.resolve_features import resolve_features

    for name in experiments:
        run = run_of(name, configfile)
        by_layer = resolve_features(run.experiment, run.workflow.addresses, run.downloads)
        typer.echo(f"{name}: {sum(map(len, by_layer.values()))} features in {len(by_layer)} layers; commit the list")


@app.command()
def saes(pattern: Annotated[str, typer.Argument(help="Regular expression for release, model or repository; none: all.")] = "") -> None:
    """List the SAEs that sae-lens knows: release, model, hook point, width, number, Neuronpedia's name, whether they can be used here."""
    from saesteer.report.reference.sae_docs import release_lines, releases

    for line in release_lines(releases(pattern)):
        typer.echo(line)
