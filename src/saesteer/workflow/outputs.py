"""Every file that the workflow makes of an experiment. No torch."""

from pathlib import Path

from saesteer.core.errors import SettingsError
from saesteer.core.store import unnamed_parts
from saesteer.run import Run
from saesteer.settings import Experiment, Sweep
from saesteer.steps.step import steps_of
from saesteer.summaries.summary import summaries_of


def planned_outputs(run: Run) -> list[str]:
    """Every file that the rules make of an experiment: pins, manifests, tables, metrics, figures and reports.

    The workflow asks for all of them. If it asked for figures only, a job that failed would be taken for done: Snakemake 9.27 removes
    its output, records it as made from the new inputs all the same, and does not miss a file between two that are there.
    """
    experiment = run.experiment
    files = [f"pins/{name}.json" for name in pins(experiment)]
    files += [f"{step}/{group}.json" for step in ("saes", *steps_of(experiment)) for group in run.groups(step)]
    files += [file for summary in summaries_of(experiment).values() for file in summary.files(experiment)]
    files += ["metrics.json"] if isinstance(experiment, Sweep) else []
    reports = {"scores": [], "sweep": ["headline.md"], "comparison": ["methods.md"]}[experiment.kind]
    reports = [*(f"{figure}.{ending}" for figure in figures(experiment) for ending in ("pdf", "png", "csv")), *reports]
    return [*(str(run.data / file) for file in files), *(str(run.figures / file) for file in reports)]


def figures(experiment: Experiment) -> list[str]:
    """The figures of an experiment: it has all tables that they read."""
    from saesteer.figures.registry import FIGURES  # jobs do without

    tables = {table.name for summary in summaries_of(experiment).values() for table in summary.tables}
    return [name for name, figure in FIGURES.items() if tables.issuperset(figure.tables) and figure.applies(experiment)]


TRIED = "tried_"
"""Begins the name of a manifest that no job writes: of labels that `saesteer explain` made for some features."""


def unneeded_files(run: Run) -> list[Path]:
    """The parts in an experiment's data folder that no manifest of a job, and none of what was tried, names: of removed features, old
    settings, old models."""
    planned = {step: run.manifests(step) for step in steps_of(run.experiment)}
    if absent := [path for paths in planned.values() for path in paths if not path.is_file()]:
        raise SettingsError(
            f"{absent[0]} is missing, so a job failed or has not run, and its finished rows are named by nothing: run the workflow first,"
            " or name other experiments"
        )
    steps = sorted(path for path in run.data.iterdir() if path.is_dir())
    return [file for step in steps for file in unnamed_parts(step, [*planned.get(step.name, []), *step.glob(f"{TRIED}*.json")])]


def pins(experiment: Experiment) -> list[str]:
    """Names of the models and files whose digests the steps depend on."""
    steps = steps_of(experiment)
    return sorted({name for step in steps.values() for name in step.inputs} - {"saes", *steps})
