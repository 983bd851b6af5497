"""Commands to start with: a recommendation, steered texts, the report, and an experiment of one's own."""

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Literal

import typer

from saesteer.cli.application import CONFIG, Configfile, Finished, SomeExperiments, commands, refuse_while_running, run_of, workflow_of
from saesteer.core.errors import SaesteerError
from saesteer.core.shipped import SHIPPED

command = commands("Start")

_SAYS_WHERE = r"-[cje]|--(cores|jobs|executor|profile)\b"
"""Options of Snakemake's that say where jobs run, and how many at once."""
_WITH_VALUE = r"(?s)^(--config(?==)|-C)=?(.+)"
"""An option of Snakemake's for values of the configuration, written as one word with the first of them."""


@command()
def recommend(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment whose features are scored.")],
    concept: Annotated[str, typer.Argument(help="What the texts should be about.")],
    features: Annotated[
        int | None,
        typer.Option(min=1, help="Most candidates of a layer; none: 4, of which recommendation.n_candidates may leave fewer."),
    ] = None,
    comparison: Annotated[
        str | None, typer.Option(help="A comparison of methods on the same model: prompting and DiffMean are tried beside the features.")
    ] = None,
    less: Annotated[bool, typer.Option("--less", help="Steer away: which feature gives less of the concept.")] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="With --less: prompts that evoke the concept, one a line; none: first sentences of the experiment's labelled texts."
        ),
    ] = None,
    max_damage: Annotated[
        float | None,
        typer.Option(
            help="Choose no strength with more damage: the most perplexity, of its texts and of ordinary text, in multiples of the "
            "unsteered one; none: the strength of the highest score, whose damage the verdict weighs."
        ),
    ] = None,
    words: Annotated[
        str | None,
        typer.Option(help="Rate texts by how many of these words they have, e.g. boat,tide,anchor; none: by the experiment's judge."),
    ] = None,
    cores: Annotated[int, typer.Option(min=1, help="Processor cores for what is missing.")] = 2,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Markdown file for the answer; none: its gist is printed.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Say which feature to steer with towards a concept, how hard, and whether a prompt or a supervised vector does better; or away."""
    from rich.console import Console

    from saesteer.core.files import write_text
    from saesteer.recommendations.answer import answer
    from saesteer.recommendations.presentation import page_of, show
    from saesteer.recommendations.question import RecommendRequest

    if less and comparison:
        raise SaesteerError("prompting and DiffMean are tried towards more of a concept only: leave out --less or --comparison")
    if prompts and not less:
        raise SaesteerError("--prompts names prompts that evoke what there should be less of: add --less, or leave it out")
    counted = tuple(map(str.strip, words.split(","))) if words is not None else ()
    question = RecommendRequest(experiment, concept, features, cores, configfile, comparison, prompts, max_damage, less, counted)
    answered = answer(workflow_of(configfile), question)
    if output is None:
        show(answered, Console())
    else:
        write_text(output, page_of(answered))


@command()
def steer(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment that was run here.")],
    feature: Annotated[str, typer.Argument(help="LAYER/FEATURE, e.g. 6/548; of several at once also their factors: '6/548*1.6,6/12*0.8'.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What the model goes on from, or answers; none: the experiment's first prompt.")
    ] = None,
    factor: Annotated[
        list[float] | None,
        typer.Option(
            help="How hard to steer, in multiples of a_max (of several features: of their factors), below 0 away; may be given several"
            " times; none: as recommended."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Texts of each strength.")] = 3,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Of the sampling; none: the experiment's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text; none: the experiment's.")] = None,
    edit: Annotated[
        Literal["addition", "decay", "ablation", "projection", "clamp"],
        typer.Option(help="What is done with the feature, as sweep.edit; decay adds less at each further token, ablation sets to 0."),
    ] = "addition",
    configfile: Configfile = CONFIG,
) -> None:
    """Show what a model writes unsteered and steered with a feature or several, side by side, while it is written."""
    from rich.console import Console

    from saesteer.serve.terminal import heading, request_of, show, texts_by_token

    run = run_of(experiment, configfile)
    request = request_of(run, feature, factor or [], prompt, samples, seed, max_tokens, edit)
    typer.echo(heading(run, request))
    show(texts_by_token(run, request), request, Console(), run.experiment.model.prompt_format)


@command()
def report(
    experiment: Finished,
    folder: Annotated[Path | None, typer.Option(help="Folder to write; none: figures/EXPERIMENT/report.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write an experiment's report to walk through: a folder of pages that a browser opens from disk."""
    from saesteer.site.folder import write_report

    run = run_of(experiment, configfile)
    typer.echo(f"open {write_report(run, folder or run.figures / 'report')} in a browser")


@command()
def init(
    name: Annotated[str | None, typer.Argument(help="Name of a new experiment on a model of one's own; none: the folder only.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of the model, or a GGUF file.")] = None,
    saes: Annotated[
        Path | None, typer.Option(help="Folder of its SAEs in sae-lens's form, a folder each; or their pattern, {layer} for the layer.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Parquet file with a column text, on which the features' max-activating examples are computed.")
    ] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Make this folder a project, where it is none: configuration, Snakefile, git and DVC. With a name also write an experiment file for a
    model and SAEs of one's own, filled in from their files. Nothing is overwritten."""
    from saesteer.sharing.commands import git_top
    from saesteer.workflow.new_experiment import write_experiment
    from saesteer.workflow.project import write_project

    if name is not None and (model is None or saes is None):
        raise SaesteerError(f"a new experiment needs its model and SAEs: saesteer init {name} --model FOLDER --saes FOLDER")
    is_new, path = not configfile.exists() and configfile == CONFIG, None
    if not is_new and name is None:
        raise SaesteerError(f"{configfile} is there already: this folder is a project; name an experiment to write its file")
    if is_new:
        git_top(Path())  # refused where there is no git, before anything is written
    if name and model and saes:
        workflow = workflow_of(SHIPPED / CONFIG if is_new else configfile)
        path = write_experiment(name, model, saes, texts, workflow.experiments_dirs[0], workflow.downloads_dir)
    if is_new:
        write_project(Path(), name)
        typer.echo(f"this folder is a project now, and {CONFIG} says what it runs: `saesteer check`, then `saesteer run`")
    if path:
        typer.echo(f"wrote {path}: look it through, then `saesteer check {name}`")


@command()
def check(experiments: SomeExperiments = None, configfile: Configfile = CONFIG) -> None:
    """Say in seconds whether experiments can run here, and what they will take."""
    from saesteer.workflow.preflight import check_experiment
    from saesteer.workflow.project import bring_inputs

    n_problems = 0
    for name in experiments or workflow_of(configfile).experiments:
        run = run_of(name, configfile)
        bring_inputs(run.experiment)
        for finding in check_experiment(name, run.experiment, run.workflow, os.environ):
            typer.echo(f"{finding.level:<9} {name}: {finding.about}: {finding.text}")
            n_problems += finding.level == "problem"
    if n_problems:
        raise SaesteerError(f"{n_problems} problems")


@command(context_settings={"ignore_unknown_options": True})
def run(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EXPERIMENT]... [OPTION OF SNAKEMAKE]...",
            help="Names of experiments (none: those of the configuration), then whatever Snakemake is to be told, e.g. --cores 2 or -n.",
        ),
    ] = None,
) -> None:
    """Run experiments: Snakemake, going on where a run was stopped and past jobs that fail; on all cores if nothing else is said."""
    if not Path("Snakefile").is_file():
        raise SaesteerError("there is no Snakefile here: `saesteer init` in an empty folder makes it a project, which runs")
    given = arguments or []
    names = list(takewhile(lambda argument: not argument.startswith("-"), given))
    options = _configured(names, given[len(names) :])
    cores = [] if any(re.match(_SAYS_WHERE, option) for option in options) else ["--cores", "all"]
    for lock in refuse_while_running():
        lock.unlink()
    command = [sys.executable, "-m", "snakemake", *cores, "--rerun-incomplete", "--keep-going", *options]
    os.execv(sys.executable, command)  # in its place, so that Ctrl-C and SIGTERM reach Snakemake alone


def _configured(names: Sequence[str], options: Sequence[str]) -> list[str]:
    """Options for Snakemake with the experiments of these names, beside values of the configuration that are among the options: of several
    --config Snakemake heeds the last alone."""
    if not names:
        return list(options)
    # Without the configuration's comparisons: what those read of the shipped model would be copied here.
    values = [f"experiments=[{','.join(names)}]", "methods=[]"]
    whole = [part for option in options for part in re.sub(_WITH_VALUE, r"\1\0\2", option).split("\0")]
    place = next((place for place, option in enumerate(whole) if option in ("--config", "-C")), None)
    return ["--config", *values, *whole] if place is None else [*whole[: place + 1], *values, *whole[place + 1 :]]


@command()
def serve(
    experiment: Finished,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port.")] = 8765,
    host: Annotated[str, typer.Option(help="Address; any but this machine's own wants the token that is printed.")] = "127.0.0.1",
    configfile: Configfile = CONFIG,
) -> None:
    """Steer live in a browser, and answer programs that speak OpenAI's completions."""
    if importlib.util.find_spec("uvicorn") is None:
        raise SaesteerError("what serves pages is not installed here: run `pip install 'saesteer[serve]'`")
    from saesteer.serve.server import serve as serve_run

    serve_run(run_of(experiment, configfile), host, port, typer.echo)
