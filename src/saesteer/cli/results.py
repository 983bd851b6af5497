"""Commands that read finished experiments, ask more of them, and hand their results to others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saesteer.cli.application import CONFIG, Configfile, Finished, FinishedComparison, app, run_of, workflow_of

if TYPE_CHECKING:
    import polars as pl

VectorForm = Literal["gguf", "repeng", "easysteer", "lm-eval", "neuronpedia", "safetensors", "python"]
"""What reads an exported vector (engine.vector_formats)."""


@app.command()
def export(
    experiment: Finished,
    folder: Annotated[Path, typer.Argument(help="Folder to write v1/MODEL/SOURCE/... into.")],
    source: Annotated[str | None, typer.Option(help="MODEL/SOURCE, {layer} for the layer; none: the experiment's own.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write an experiment's max-activating examples in the form of Neuronpedia's bulk exports."""
    from saesteer.report.exports.neuronpedia import export_examples

    for layer, name in export_examples(run_of(experiment, configfile), folder, source).items():
        typer.echo(f"layer {layer}: {folder}/v1/{name}")


@app.command()
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
    from saesteer.report.upload import uploads_of
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


@app.command()
def axbench(
    experiment: FinishedComparison,
    folder: Annotated[Path, typer.Argument(help="Folder to write layer_LL/steering_data.parquet into.")],
    configfile: Configfile = CONFIG,
) -> None:
    """Write a comparison's texts and ratings in the form of AxBench's results."""
    from saesteer.report.exports.comparison import export_axbench

    for path in export_axbench(run_of(experiment, configfile), folder):
        typer.echo(f"wrote {path}")


@app.command()
def vectors(
    experiment: FinishedComparison,
    method: Annotated[str, typer.Argument(help="Key of a method that fits vectors, e.g. diffmean.")],
    layer: Annotated[int, typer.Argument(help="Layer that it was fitted at.")],
    path: Annotated[Path, typer.Argument(help="Safetensors file to write.")],
    configfile: Configfile = CONFIG,
) -> None:
    """Write the unit vectors that a method fitted, a tensor a concept; the method from_file reads such files."""
    from saesteer.report.exports.comparison import export_vectors

    export_vectors(run_of(experiment, configfile), method, layer, path)
    typer.echo(f"wrote {path}")


@app.command()
def export_vector(
    experiment: Finished,
    which: Annotated[str, typer.Argument(help="LAYER/FEATURE, e.g. 6/884; or METHOD/CONCEPT of a comparison, e.g. diffmean/sea.")],
    to: Annotated[VectorForm, typer.Option(help="What is to read the file.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    factor: Annotated[float | None, typer.Option(min=0, help="How hard to steer; none: as the experiment chose.")] = None,
    layer: Annotated[int | None, typer.Option(help="Layer that the method was fitted at.")] = None,
    concept: Annotated[str | None, typer.Option(help="What texts are rated for; none: what the experiment says.")] = None,
    texts: Annotated[int, typer.Option(min=1, help="Texts that are measured of each form of steering, at least.")] = 100,
    model_id: Annotated[str | None, typer.Option(help="What Neuronpedia calls the model.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write a feature's or a fit's vector for other programs, with its strength made constant; what that does is measured first."""
    from saesteer.report.exports import vector

    run = run_of(experiment, configfile)
    steerer, sae = vector.steerer_of(run, which, layer, factor, concept)
    about = vector.export_vector(run, steerer, sae, vector.Target(to, out, texts, model_id))
    typer.echo(f"{vector.strength(about)}\n\n{vector.effect_table(about)}\n\nwrote {out}; use it so:\n{about['usage']}")


@app.command()
def steer(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment that was run here.")],
    feature: Annotated[str, typer.Argument(help="LAYER/FEATURE, e.g. 6/884.")],
    prompt: Annotated[str, typer.Argument(help="What the model goes on from, or answers.")],
    factor: Annotated[list[float], typer.Option(min=0, help="How hard to steer, in multiples of a_max; may be given several times.")],
    seed: Annotated[int | None, typer.Option(min=0, help="Of the sampling; none: the experiment's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text; none: the experiment's.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Show what a model writes unsteered and steered with a feature, side by side, while it is written."""
    from rich.console import Console

    from saesteer.report.terminal import request_of, show, texts_by_token

    request = request_of(feature, factor, prompt, seed, max_tokens)
    show(texts_by_token(run_of(experiment, configfile), request), request, Console())


@app.command()
def evaluate(
    experiment: FinishedComparison,
    method: Annotated[str, typer.Argument(help="Key of a method whose steering acts at every position, e.g. diffmean.")],
    concept: Annotated[str, typer.Argument(help="The concept that it was fitted for.")],
    layer: Annotated[int, typer.Option(help="Layer that it was fitted at.")],
    tasks: Annotated[str, typer.Option(help="Tasks, groups or tags of lm-evaluation-harness, with commas.")],
    factor: Annotated[float | None, typer.Option(min=0, help="How hard to steer; none: the chosen factor.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; none: all.")] = None,
    include_path: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder with tasks of one's own, in the harness's YAML.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests in a forward.")] = 8,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results and what they depend on.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Run tasks of lm-evaluation-harness (extra `evaluation`) on the model as it is and under a method's fit for a concept."""
    from saesteer.core.files import write_json
    from saesteer.report.evaluation import Tasks, evaluate, table_of
    from saesteer.report.fits import fit_of

    run = run_of(experiment, configfile)
    fit = fit_of(run, method, concept, layer, factor)
    evaluated = evaluate(run, fit, Tasks(tuple(tasks.split(",")), limit, include_path, batch_size))
    typer.echo(f"{method}, {concept}, layer {layer}, factor {fit.factor} ({fit.factor_from})\n\n{table_of(evaluated['results'])}")
    if output:
        write_json(output, evaluated)


@app.command()
def recommend(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment whose features are scored, and which has a judge.")],
    concept: Annotated[str, typer.Argument(help="What the texts should be about.")],
    features: Annotated[int, typer.Option(min=1, help="Most candidates of a layer.")] = 4,
    comparison: Annotated[
        str | None, typer.Option(help="A comparison of methods on the same model: prompting and DiffMean are tried beside the features.")
    ] = None,
    cores: Annotated[int, typer.Option(min=1, help="Processor cores for what is missing.")] = 2,
    output: Annotated[Path | None, typer.Option(help="Markdown file for the answer; none: it is printed.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Say which feature to steer with towards a concept, how hard, and whether a prompt or a supervised vector does better."""
    from saesteer.core.files import write_text
    from saesteer.report.recommend import Question, answer, page_of

    page = page_of(answer(workflow_of(configfile), Question(experiment, concept, features, cores, configfile, comparison)))
    if output is None:
        typer.echo(page)
    else:
        write_text(output, page)


@app.command()
def report(
    experiment: Finished,
    folder: Annotated[Path | None, typer.Option(help="Folder to write; none: figures/EXPERIMENT/report.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write an experiment's report to walk through: a folder of pages that a browser opens from disk."""
    from saesteer.report.site.folder import write_report

    run = run_of(experiment, configfile)
    typer.echo(f"open {write_report(run, folder or run.figures / 'report')} in a browser")


@app.command()
def agreement(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment whose texts more than one judge rated.")],
    data: Annotated[Path, typer.Option(help="Folder of the data artifacts.")] = Path("data"),
) -> None:
    """Compare the judges that rated an experiment's texts, past ones too: weighted kappa of each aspect, with its interval."""
    from saesteer.judge.agreement import pairwise_agreement
    from saesteer.settings import experiment_name

    for (first, second), rows in pairwise_agreement(data / experiment_name(experiment) / "judge").items():
        _show_agreement(first, second, rows)


@app.command()
def rate(
    experiment: Annotated[str, typer.Argument(help="Name of a finished experiment whose texts a judge rated.")],
    texts: Annotated[int, typer.Option(min=1, help="Texts on the sheet, at most.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample: another one draws other texts.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Page to write; none: figures/EXPERIMENT/rate.html.")] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="File that a rater saved: print how far it agrees with the judge; may be repeated.")
    ] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write a page on which anybody rates texts blindly, by keyboard; or, with --answers, compare raters with the judge."""
    from saesteer.core.files import write_text
    from saesteer.report.rating.answers import compared
    from saesteer.report.rating.sheet import sheet_html

    run = run_of(experiment, configfile)
    if not answers:
        page = output or run.figures / "rate.html"
        write_text(page, sheet_html(run, texts, seed))
        typer.echo(f"open {page} in a browser; then `saesteer rate {experiment} --answers FILE` with the file that it saves")
        return
    for (first, second), rows in compared(run, answers).items():
        _show_agreement(first, second, rows)


def _show_agreement(first: str, second: str, rows: "pl.DataFrame") -> None:
    typer.echo(f"{first} against {second}")
    for row in rows.iter_rows(named=True):
        typer.echo("  " + ", ".join(f"{key} {f'{value:.3f}' if isinstance(value, float) else value}" for key, value in row.items()))
