"""Commands that give results to others, and fetch theirs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from saesteer.cli.application import (
    CONFIG,
    Configfile,
    Finished,
    FinishedComparison,
    SomeExperiments,
    commands,
    refuse_while_running,
    run_of,
    workflow_of,
)

command = commands("Share")


@command()
def export(
    experiment: Finished,
    folder: Annotated[Path, typer.Argument(help="Folder to write v1/MODEL/SOURCE/... into.")],
    source: Annotated[str | None, typer.Option(help="MODEL/SOURCE, {layer} for the layer; none: the experiment's own.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write an experiment's max-activating examples in the form of Neuronpedia's bulk exports."""
    from saesteer.exchange.neuronpedia import export_examples

    for layer, name in export_examples(run_of(experiment, configfile), folder, source).items():
        typer.echo(f"layer {layer}: {folder}/v1/{name}")


@command()
def upload(
    what: Annotated[
        Literal["list", "features", "vectors"],
        typer.Argument(help="list: of the kept features; features: with scores, to a source set of yours; vectors: that a method fitted."),
    ],
    experiment: Annotated[str, typer.Argument(help="Name of a finished experiment; for vectors a comparison of methods.")],
    source: Annotated[
        str | None, typer.Option(help="MODEL/SOURCE, {layer} for the layer; of vectors MODEL; a list's default: the experiment's own.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of vectors: key of the method, e.g. diffmean.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; print each request, its body byte for byte.")] = False,
    configfile: Configfile = CONFIG,
) -> None:
    """Send an experiment's results to Neuronpedia, with the key in NEURONPEDIA_API_KEY; what was sent once is not sent again."""
    from saesteer.exchange.neuronpedia import uploads_of
    from saesteer.sources.neuronpedia.upload import send_all, sent_before

    run = run_of(experiment, configfile)
    uploads = uploads_of(what, run, source, method)
    address, folder = run.workflow.addresses.neuronpedia, run.data / "neuronpedia"
    if dry_run:
        for planned in uploads:
            before = " (sent before: would be left out)" if sent_before(address, planned, folder) else ""
            typer.echo(f"POST {planned.url(address)}{before}")
            typer.echo(planned.body)
        return
    for sent in send_all(address, uploads, folder):
        answer = sent.answer if isinstance(sent.answer, dict) else {}
        typer.echo(f"{sent.upload.about}: {'sent before' if sent.before else 'sent'}: {answer.get('url') or answer.get('message') or 'ok'}")


@command()
def axbench(
    experiment: FinishedComparison,
    folder: Annotated[Path, typer.Argument(help="Folder to write layer_LL/steering_data.parquet into.")],
    configfile: Configfile = CONFIG,
) -> None:
    """Write a comparison's texts and ratings in the form of AxBench's results."""
    from saesteer.exchange.comparison import export_axbench

    for path in export_axbench(run_of(experiment, configfile), folder):
        typer.echo(f"wrote {path}")


@command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            exists=True,
            help="AxBench's results (steering_data.parquet); a CSV, .jsonl or Parquet file with a text a row; or a folder of P1's texts.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write tables, figures and import.json into.")],
    protocol: Annotated[
        str | None, typer.Option(help="Comparison whose score, choice of factors and intervals hold; none: the defaults.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="Comparison whose judge rates the texts; none: the ratings are the file's.")] = None,
    layer: Annotated[int, typer.Option(min=0, max=65535, help="Layer of the texts, where the file names none.")] = 0,
    configfile: Configfile = CONFIG,
) -> None:
    """Score steered texts from elsewhere as a comparison scores its own: factors by its rule, intervals, differences, figures.

    A table has the columns method (or feature), concept, prompt, factor and text, and may have sample, layer, concept_rating,
    instruction_rating, fluency_rating (0 to 2, empty where missing) and perplexity. The method unsteered is what others are compared with.
    A concept's prompts are numbered in the file's order: every other one chooses the factor for the rest.

    AxBench's results are the steering_data.parquet of its evaluation. A judge's answer that its program cannot read is a rating of 0 there.

    P1's texts are read from a folder with its generations (one file per factor), its instructions, and AxBench's lists of concepts
    (metadata.jsonl). They need `--judge`; the factor is chosen by the score, as P1's own rule needs the model.

    FOLDER gets the texts with their ratings, tables, figures, and import.json, which says what was read: digests, columns, judge, protocol.
    """
    from saesteer.core.markdown import printable
    from saesteer.exchange.imported import import_texts

    protocol_run, judge_run = (name and run_of(name, configfile) for name in (protocol, judge))
    for line in import_texts(source, layer, protocol_run or None, judge_run or None, folder):
        typer.echo(printable(line))


@command()
def record(experiments: SomeExperiments = None, configfile: Configfile = CONFIG) -> None:
    """Put finished results under DVC and write their provenance: what `push` does before it uploads."""
    from saesteer.sharing import publish

    tracked = _publish(publish.record, experiments, configfile)
    typer.echo(f"recorded {len(tracked)} folders and files; `dvc push` uploads them, `git add` and commit the *.dvc files and provenance/")


@command()
def push(experiments: SomeExperiments = None, configfile: Configfile = CONFIG) -> None:
    """Share finished results: upload the data, then commit and push the files in git that name it."""
    from saesteer.sharing import publish

    def push_with_settings(folder: Path, configuration: list[str]) -> list[Path]:
        return publish.push(folder, configuration, [configfile, *workflow_of(configfile).experiments_dirs])

    typer.echo(f"published {len(_publish(push_with_settings, experiments, configfile))} folders and files")


def _publish(publish: Callable[[Path, list[str]], list[Path]], experiments: list[str] | None, configfile: Path) -> list[Path]:
    from saesteer.workflow.algorithms import check_lock

    check_lock()  # provenance names the code's digest, and rows are only as old as its versions say
    refuse_while_running()
    chosen = ["--config", f"experiments=[{','.join(experiments)}]", "methods=[]"] if experiments else []
    return publish(Path(), ["--configfile", str(configfile), *chosen])


@command()
def pull(experiments: SomeExperiments = None, configfile: Configfile = CONFIG) -> None:
    """Fetch the results that this commit names, check them, and tell Snakemake what is up to date."""
    from saesteer.sharing.pull import pull as pull_results
    from saesteer.workflow.outputs import planned_outputs

    refuse_while_running()
    examined = pull_results(Path(), experiments or [], lambda name: planned_outputs(run_of(name, configfile)))
    if not examined:
        typer.echo("nothing was published at this commit: run the workflow, then `saesteer push`")
    for name, examination in examined.items():
        typer.echo(f"{name}: {len(examination.agreeing)} outputs adopted, {len(examination.refused)} to be made again")
        for output, reason in examination.refused.items():
            typer.echo(f"  {output}: {reason}")


@command("merge-versions", hidden=True)
def merge_versions(ours: Path, theirs: Path, merged_as: Annotated[Path, typer.Argument()] = Path("merged.dvc")) -> None:
    """What git calls to merge *.dvc files."""
    from saesteer.sharing import dvc_metadata

    refuse_while_running()
    dvc_metadata.merge_versions(ours, theirs, merged_as)
