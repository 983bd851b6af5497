"""The `saesteer` command: what surrounds the workflow (stale locks, unused parts, generated documents).

A command imports what it needs itself: all of it would take each of them a second, and `make figures` starts with one.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from saesteer.core.errors import SaesteerError
from saesteer.workflow.locks import stale_locks

if TYPE_CHECKING:
    from saesteer.settings import Experiment, Workflow


class _Commands(TyperGroup):
    """Shows what a user can mend as one message, whichever command raised it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (SaesteerError, OSError) as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_Experiments = Annotated[list[str], typer.Argument(help="Names of experiments.")]
_SomeExperiments = Annotated[
    list[str] | None, typer.Argument(help="Names of experiments; none: those of the configuration (pull: all that were published).")
]
_Configfile = Annotated[Path, typer.Option(help="Configuration that names the experiments.")]
_Data = Annotated[Path, typer.Option(help="Folder of the data artifacts.")]
_CONFIG = Path("config/config.yaml")


@app.command()
def unlock(folder: Annotated[Path, typer.Option(help="Folder that the workflow runs in.")] = Path()) -> None:
    """Remove the lock that a killed run left behind; refuse while a run is alive on this machine."""
    for lock in _refuse_while_running(folder):
        lock.unlink()
        typer.echo(f"removed the lock of a run that is gone: {lock}")


@app.command()
def gc(
    data: _Data = Path("data"),
    remove: Annotated[bool, typer.Option("--remove", help="Remove them; without this they are only listed.")] = False,
) -> None:
    """List the parts that no manifest names (of removed features, old settings, old models), and remove them when told to."""
    from saesteer.core.store import unnamed_parts

    if remove:
        _refuse_while_running()  # parts of an unfinished run are named by no manifest yet
    parts = [part for folder in sorted(data.glob("*/*")) if folder.is_dir() for part in unnamed_parts(folder)]
    for part in parts:
        typer.echo(f"{part.stat().st_size:>12} {part}")
        if remove:
            part.unlink()
    size = "removed" if remove else "could be removed (add --remove)"
    typer.echo(f"{len(parts)} files {size}")


@app.command()
def check(experiments: _Experiments, configfile: _Configfile = _CONFIG) -> None:
    """Say in seconds whether experiments can run here, and what they will take."""
    from saesteer.workflow.preflight import check_experiment

    n_problems = 0
    for name in experiments:
        workflow, experiment = _loaded(name, configfile)
        for finding in check_experiment(name, experiment, workflow, os.environ):
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
        Path | None, typer.Option(help="Parquet file with a column text, on which the features' records are computed.")
    ] = None,
    configfile: _Configfile = _CONFIG,
) -> None:
    """Write an experiment file for a model and SAEs of one's own, filled in from their files; nothing is overwritten."""
    from saesteer.settings import load_workflow, read_yaml
    from saesteer.workflow.new_experiment import write_experiment

    folder = load_workflow(read_yaml(configfile), str(configfile)).experiments_dir
    typer.echo(f"wrote {write_experiment(name, model, saes, texts, folder)}: look it through, then `saesteer check {name}`")


@app.command()
def features(experiments: _Experiments, configfile: _Configfile = _CONFIG) -> None:
    """Resolve feature sets that need the network (published lists, searches of explanations) into lists to commit."""
    from saesteer.sources.resolve_features import resolve_features

    for name in experiments:
        workflow, experiment = _loaded(name, configfile)
        by_layer = resolve_features(experiment, workflow.addresses, workflow.data_dir / "downloads")
        typer.echo(f"{name}: {sum(map(len, by_layer.values()))} features in {len(by_layer)} layers; commit the list")


@app.command()
def saes(pattern: Annotated[str, typer.Argument(help="Regular expression for release, model or repository; none: all.")] = "") -> None:
    """List the SAEs that sae-lens knows: release, model, place, width, number, Neuronpedia's name, and whether they can be used here."""
    from saesteer.report.sae_docs import release_lines, releases

    for line in release_lines(releases(pattern)):
        typer.echo(line)


@app.command()
def export(
    experiment: Annotated[str, typer.Argument(help="Name of a finished experiment.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write v1/MODEL/SOURCE/... into.")],
    source: Annotated[str | None, typer.Option(help="MODEL/SOURCE, {layer} for the layer; none: the experiment's own.")] = None,
    configfile: _Configfile = _CONFIG,
) -> None:
    """Write an experiment's feature records in the form of Neuronpedia's bulk exports."""
    from saesteer.report.neuronpedia_export import export_records

    workflow, chosen = _loaded(experiment, configfile)
    for layer, name in export_records(chosen, workflow.data_dir / experiment, folder, source).items():
        typer.echo(f"layer {layer}: {folder}/v1/{name}")


class _Parts(StrEnum):
    """What can be sent to Neuronpedia."""

    LIST = "list"
    FEATURES = "features"
    VECTORS = "vectors"


@app.command()
def upload(
    what: Annotated[
        _Parts,
        typer.Argument(help="list: of the kept features; features: with scores, to a source set of yours; vectors: that a method fitted."),
    ],
    experiment: Annotated[str, typer.Argument(help="Name of a finished experiment; for vectors a comparison of methods.")],
    source: Annotated[
        str | None, typer.Option(help="MODEL/SOURCE, {layer} for the layer; of vectors MODEL; a list's default: the experiment's own.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of vectors: key of the method, e.g. diffmean.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; print each request, its body byte for byte.")] = False,
    configfile: _Configfile = _CONFIG,
) -> None:
    """Send an experiment's results to Neuronpedia, with the key in NEURONPEDIA_API_KEY; what was sent once is not sent again."""
    from saesteer.report.neuronpedia_upload import uploads_of
    from saesteer.sources.neuronpedia.upload import send_all, sent_before

    workflow, chosen = _loaded(experiment, configfile)
    uploads = uploads_of(what, chosen, experiment, workflow.data_dir, source, method)
    address, folder = workflow.addresses.neuronpedia, workflow.data_dir / experiment / "neuronpedia"
    if dry_run:
        for one in uploads:
            typer.echo(f"POST {one.url(address)}{' (sent before: would be left out)' if sent_before(address, one, folder) else ''}")
            typer.echo(one.body)
        return
    for sent in send_all(address, uploads, folder):
        answer = sent.answer if isinstance(sent.answer, dict) else {}
        typer.echo(f"{sent.upload.about}: {'sent before' if sent.before else 'sent'}: {answer.get('url') or answer.get('message') or 'ok'}")


@app.command()
def axbench(
    experiment: Annotated[str, typer.Argument(help="Name of a finished comparison of methods.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write layer_LL/steering_data.parquet into.")],
    configfile: _Configfile = _CONFIG,
) -> None:
    """Write a comparison's texts and ratings in the form of AxBench's results."""
    from saesteer.report.exports import export_axbench

    workflow, chosen = _loaded(experiment, configfile)
    for path in export_axbench(chosen, workflow.data_dir, experiment, folder):
        typer.echo(f"wrote {path}")


@app.command()
def vectors(
    experiment: Annotated[str, typer.Argument(help="Name of a finished comparison of methods.")],
    method: Annotated[str, typer.Argument(help="Key of a method that fits vectors, e.g. diffmean.")],
    layer: Annotated[int, typer.Argument(help="Layer that it was fitted at.")],
    path: Annotated[Path, typer.Argument(help="Safetensors file to write.")],
    data: _Data = Path("data"),
) -> None:
    """Write the unit vectors that a method fitted, a tensor a concept; the method from_file reads such files."""
    from saesteer.report.exports import export_vectors

    export_vectors(data, experiment, method, layer, path)
    typer.echo(f"wrote {path}")


@app.command()
def evaluate(
    experiment: Annotated[str, typer.Argument(help="Name of a finished comparison of methods.")],
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
    configfile: _Configfile = _CONFIG,
) -> None:
    """Run tasks of lm-evaluation-harness (extra `evaluation`) on the model as it is and under a method's fit for a concept."""
    from saesteer.core.files import write_json
    from saesteer.report.evaluation import Tasks, evaluate, fit_of, table_of

    workflow, chosen = _loaded(experiment, configfile)
    fit = fit_of(chosen, workflow.data_dir / experiment, method, concept, layer, factor)
    made = evaluate(workflow, chosen, experiment, fit, Tasks(tuple(tasks.split(",")), limit, include_path, batch_size))
    typer.echo(f"{method}, {concept}, layer {layer}, factor {fit.factor} ({fit.factor_from})\n")
    typer.echo(table_of(made["results"]))
    if output:
        write_json(output, made)


@app.command()
def agreement(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment whose texts more than one judge rated.")],
    data: _Data = Path("data"),
) -> None:
    """Compare the judges that rated an experiment's texts, past ones too: weighted kappa of each aspect, with its interval."""
    from saesteer.judge.agreement import pairwise_agreement

    for (one, other), rows in pairwise_agreement(data / experiment / "judge").items():
        typer.echo(f"{one} against {other}")
        for row in rows.iter_rows(named=True):
            typer.echo("  " + ", ".join(f"{key} {f'{value:.3f}' if isinstance(value, float) else value}" for key, value in row.items()))


@app.command()
def record(experiments: _SomeExperiments = None, configfile: _Configfile = _CONFIG) -> None:
    """Put finished results under DVC and write their provenance: what `push` does before it uploads."""
    from saesteer.sharing import publish

    _refuse_while_running()
    tracked = publish.record(Path(), _configuration(experiments, configfile))
    typer.echo(f"recorded {len(tracked)} folders and files; `dvc push` uploads them, `git add` and commit the *.dvc files and provenance/")


@app.command()
def push(experiments: _SomeExperiments = None, configfile: _Configfile = _CONFIG) -> None:
    """Share finished results: upload the data, then commit and push the files in git that name it."""
    from saesteer.sharing import publish

    _refuse_while_running()
    tracked = publish.push(Path(), _configuration(experiments, configfile))
    typer.echo(f"published {len(tracked)} folders and files")


@app.command()
def pull(experiments: _SomeExperiments = None) -> None:
    """Fetch the results that this commit names, check them, and tell Snakemake what is up to date."""
    from saesteer.sharing import fetch

    _refuse_while_running()
    examined = fetch.pull(Path(), experiments or [])
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

    _refuse_while_running()
    dvc_metadata.merge_versions(ours, theirs)


@app.command("config-docs")
def config_docs(
    folder: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("config"),
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the files differ.")] = False,
) -> None:
    """Write config/schema.json and config/README.md from the settings."""
    from saesteer.core.files import write_text
    from saesteer.report.config_docs import readme_text, schema_text

    for path, text in ((folder / "schema.json", schema_text()), (folder / "README.md", readme_text())):
        if not check:
            write_text(path, text)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise SaesteerError(f"{path} is not in step with the settings: run `saesteer config-docs`")


@app.command()
def readme(folder: Annotated[Path, typer.Option(help="Root of the repository.")] = Path()) -> None:
    """Paste the results of finished experiments into the README and docs/."""
    from saesteer.report.readme import update_readme

    for path in update_readme(folder):
        typer.echo(f"wrote {path}")


def _loaded(experiment: str, configfile: Path) -> "tuple[Workflow, Experiment]":
    from saesteer.settings import load_experiment, load_workflow, read_yaml

    workflow = load_workflow(read_yaml(configfile), str(configfile))
    return workflow, load_experiment(experiment, workflow.experiments_dir)


def _configuration(experiments: list[str] | None, configfile: Path) -> list[str]:
    """Snakemake's arguments for a configuration."""
    chosen = ["--config", f"experiments=[{','.join(experiments)}]"] if experiments else []
    return ["--configfile", str(configfile), *chosen]


def _refuse_while_running(folder: Path = Path()) -> list[Path]:
    """The folder's locks, which nobody alive holds."""
    locks, holder = stale_locks(folder)
    if holder is not None:
        raise SaesteerError(f"a workflow is running here (process {holder}): wait for it, or stop it, then try again")
    return locks
