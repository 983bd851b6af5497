"""Commands about what is steered with: SAEs, features, vectors, and how well they do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saesteer.cli.application import CONFIG, Configfile, Experiments, Finished, FinishedComparison, commands, run_of

if TYPE_CHECKING:
    import polars as pl

VectorForm = Literal["gguf", "repeng", "easysteer", "lm-eval", "neuronpedia", "safetensors", "python"]
"""What reads an exported vector (engine.vector_formats)."""
NamedFrom = Literal["examples", "lens", "both"]
FittedAt = Annotated[int | None, typer.Option(help="Layer that the method was fitted at; needed where there are several.")]
FactorOption = Annotated[float | None, typer.Option(help="How hard to steer, below 0 away from it; none: as the experiment chose.")]
command = commands("Steer")


@command()
def saes(pattern: Annotated[str, typer.Argument(help="Regular expression for release, model or repository; none: all.")] = "") -> None:
    """List the SAEs that sae-lens knows: release, model, hook point, width, number, Neuronpedia's name, whether they can be used here."""
    from saesteer.reference.sae_docs import release_lines, releases

    for line in release_lines(releases(pattern)):
        typer.echo(line)


@command()
def features(experiments: Experiments, configfile: Configfile = CONFIG) -> None:
    """Resolve feature sets that need the network (published lists, searches of explanations) into lists to commit."""
    from saesteer.sources.resolve_features import resolve_features

    for name in experiments:
        run = run_of(name, configfile)
        by_layer = resolve_features(run.experiment, run.workflow.addresses, run.downloads)
        typer.echo(f"{name}: {sum(map(len, by_layer.values()))} features in {len(by_layer)} layers; commit the list")


@command()
def explain(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment with max-activating examples and a judge.")],
    evidence: Annotated[
        NamedFrom | None, typer.Option("--from", help="What features are named from; none: as the experiment file says, or both.")
    ] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="LAYER/FEATURE, e.g. 6/548; may be repeated. None: all of the experiment.")
    ] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Have the judge name features, and say how well each name tells held-out texts in which the feature is active from others."""
    from saesteer.site.labels import explain, lines

    run = run_of(experiment, configfile)
    for line in lines(explain(run, evidence, features or ()), run):
        typer.echo(line)


@command()
def export_vector(
    experiment: Finished,
    which: Annotated[str, typer.Argument(help="LAYER/FEATURE, e.g. 6/548; or METHOD/CONCEPT of a comparison, e.g. diffmean/sea.")],
    to: Annotated[VectorForm, typer.Option(help="What is to read the file.")],
    output: Annotated[Path, typer.Option("--output", "--out", dir_okay=False, help="File to write.")],
    layer: FittedAt = None,
    factor: FactorOption = None,
    concept: Annotated[str | None, typer.Option(help="What texts are rated for; none: what the experiment says.")] = None,
    texts: Annotated[int, typer.Option(min=1, help="Texts that are measured of each form of steering, at least.")] = 100,
    model_id: Annotated[str | None, typer.Option(help="What Neuronpedia calls the model.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write a feature's or a fit's vector for other programs, with its strength made constant; what that does is measured first."""
    from saesteer.exchange import vector

    run = run_of(experiment, configfile)
    steerer, sae = vector.steerer_of(run, which, layer, factor, concept)
    about = vector.export_vector(run, steerer, sae, vector.Target(to, output, texts, model_id))
    typer.echo(f"{vector.strength(about)}\n\n{vector.effect_table(about)}\n\nwrote {output}; use it so:\n{about['usage']}")


@command()
def vectors(
    experiment: FinishedComparison,
    method: Annotated[str, typer.Argument(help="A method that fits vectors, e.g. diffmean.")],
    output: Annotated[Path, typer.Option(dir_okay=False, help="Safetensors file to write.")],
    layer: FittedAt = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write the unit vectors that a method fitted, one tensor per concept; the method from_file reads such files."""
    from saesteer.exchange.comparison import export_vectors
    from saesteer.exchange.fits import fitted_layer

    run = run_of(experiment, configfile)
    export_vectors(run, method, fitted_layer(run, layer), output)
    typer.echo(f"wrote {output}")


@command()
def evaluate(
    experiment: FinishedComparison,
    which: Annotated[str, typer.Argument(help="METHOD/CONCEPT, e.g. diffmean/sea; the method's steering acts at every position.")],
    tasks: Annotated[str, typer.Option(help="Tasks, groups or tags of lm-evaluation-harness, with commas.")],
    layer: FittedAt = None,
    factor: FactorOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task; none: all.")] = None,
    include_path: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder with tasks of one's own, in the harness's YAML.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests in a forward.")] = 8,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="JSON file for the results and what they depend on.")] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Run tasks of lm-evaluation-harness (extra `evaluation`) on the model as it is and under a method's fit for a concept."""
    from saesteer.core.files import write_json
    from saesteer.exchange.evaluation import Tasks, evaluate, table_of
    from saesteer.exchange.fits import fit_of, fitted_layer, method_and_concept

    run = run_of(experiment, configfile)
    fit = fit_of(run, *method_and_concept(which), fitted_layer(run, layer), factor)
    evaluated = evaluate(run, fit, Tasks(tuple(tasks.split(",")), limit, include_path, batch_size))
    what = f"{fit.method}, {fit.concept}, layer {fit.layer}, factor {fit.factor} ({fit.factor_from})"
    typer.echo(f"{what}\n\n{table_of(evaluated['results'])}")
    if output:
        write_json(output, evaluated)


@command()
def rate(
    experiment: Annotated[str, typer.Argument(help="Name of a finished experiment whose texts a judge rated.")],
    texts: Annotated[int, typer.Option(min=1, help="Texts on the sheet, at most.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the sample: another one draws other texts.")] = 0,
    output: Annotated[Path | None, typer.Option(dir_okay=False, help="Page to write; none: figures/EXPERIMENT/rate.html.")] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="File that a rater saved: print how far it agrees with the judge; may be repeated.")
    ] = None,
    configfile: Configfile = CONFIG,
) -> None:
    """Write a page on which anybody rates texts blindly, by keyboard; or, with --answers, compare raters with the judge."""
    from saesteer.core.files import write_text
    from saesteer.rating.agreement import compared
    from saesteer.rating.sheet import sheet_html

    run = run_of(experiment, configfile)
    if not answers:
        page = output or run.figures / "rate.html"
        write_text(page, sheet_html(run, texts, seed))
        typer.echo(f"open {page} in a browser; then `saesteer rate {experiment} --answers FILE` with the file that it saves")
        return
    for (first, second), rows in compared(run, answers).items():
        _show_agreement(first, second, rows)


@command()
def agreement(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment whose texts more than one judge rated.")],
    configfile: Configfile = CONFIG,
) -> None:
    """Compare the judges that rated an experiment's texts, past ones too: weighted kappa of each aspect, with its interval."""
    from saesteer.rating.agreement import pairwise_agreement
    from saesteer.rating.sheet import check_rated

    run = run_of(experiment, configfile)
    check_rated(run)
    for (first, second), rows in pairwise_agreement(run.data / "judge").items():
        _show_agreement(first, second, rows)


def _show_agreement(first: str, second: str, rows: "pl.DataFrame") -> None:
    typer.echo(f"{first} against {second}")
    for row in rows.iter_rows(named=True):
        typer.echo("  " + ", ".join(f"{key} {f'{value:.3f}' if isinstance(value, float) else value}" for key, value in row.items()))
