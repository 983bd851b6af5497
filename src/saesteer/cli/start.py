"""Commands to start with: a recommendation, steered texts, the report, and an experiment of one's own."""

import os
from pathlib import Path
from typing import Annotated

import typer

from saesteer.cli.application import CONFIG, Configfile, Experiments, Finished, commands, run_of, workflow_of
from saesteer.core.errors import SaesteerError

command = commands("Start")


@command()
def recommend(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment whose features are scored, and which has a judge.")],
    concept: Annotated[str, typer.Argument(help="What the texts should be about.")],
    features: Annotated[int, typer.Option(min=1, help="Most candidates of a layer.")] = 4,
    comparison: Annotated[
        str | None, typer.Option(help="A comparison of methods on the same model: prompting and DiffMean are tried beside the features.")
    ] = None,
    cores: Annotated[int, typer.Option(min=1, help="Processor cores for what is missing.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Markdown file for the whole answer; none: its gist is printed.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Say which feature to steer with towards a concept, how hard, and whether a prompt or a supervised vector does better."""
    from rich.console import Console

    from saesteer.core.files import write_text
    from saesteer.report.recommend import Question, answer, page_of, show

    answered = answer(workflow_of(configfile), Question(experiment, concept, features, cores, configfile, comparison))
    if output is None:
        show(answered, Console())
    else:
        write_text(output, page_of(answered))


@command()
def steer(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment that was run here.")],
    feature: Annotated[str, typer.Argument(help="LAYER/FEATURE, e.g. 6/548.")],
    prompt: Annotated[str, typer.Argument(help="What the model goes on from, or answers.")],
    factor: Annotated[
        list[float] | None,
        typer.Option(help="How hard to steer, in multiples of a_max, below 0 away from it; may be given several times; none: as recommended."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Texts of each strength.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the sampling; none: the experiment's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text; none: the experiment's.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Show what a model writes unsteered and steered with a feature, side by side, while it is written."""
    from rich.console import Console

    from saesteer.report.terminal import heading, request_of, show, texts_by_token

    run = run_of(experiment, configfile)
    request = request_of(run, feature, factor or [], prompt, samples, seed, max_tokens)
    typer.echo(heading(run, request))
    show(texts_by_token(run, request), request, Console())


@command()
def report(
    experiment: Finished,
    folder: Annotated[Path | None, typer.Option(help="Folder to write; none: figures/EXPERIMENT/report.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write an experiment's report to walk through: a folder of pages that a browser opens from disk."""
    from saesteer.report.site.folder import write_report

    run = run_of(experiment, configfile)
    typer.echo(f"open {write_report(run, folder or run.figures / 'report')} in a browser")


@command()
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


@command()
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


@command()
def serve(
    experiment: Finished,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port.")] = 8765,
    host: Annotated[str, typer.Option(help="Address; any but this machine's own wants the token that is printed.")] = "127.0.0.1",
    configfile: Configfile = CONFIG,
) -> None:
    """Steer live in a browser, and answer programs that speak OpenAI's completions."""
    from saesteer.serve.server import serve as serve_run

    serve_run(run_of(experiment, configfile), host, port, typer.echo)
