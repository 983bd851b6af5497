"""What jobs name as their inputs, and summary tables made where nothing else is there."""

import re
from pathlib import Path

import pytest
from workflow_folder import Folder

from saesteer.core.files import file_digest
from saesteer.core.tables import write_summary
from saesteer.run import Run, open_run
from saesteer.settings import load_workflow
from saesteer.settings.load import read_yaml
from saesteer.summaries.summary import summaries_of


def inputs_of_outputs(printed: str) -> dict[str, set[str]]:
    """Output file -> the input files of its job, from what a dry run of Snakemake lists."""
    jobs = re.findall(r"^ +input: (.*)\n +output: (.*)$", printed, re.MULTILINE)
    return {output: set(read.split(", ")) for read, outputs in jobs for output in outputs.split(", ")}


def summaries_from_their_inputs(folder: Folder, experiment: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Compute every summary table of a finished experiment again, below `path`, from what its job names as inputs and nothing else, and see
    that it is the same; gives the names of the summaries. A job that reads more is run by Snakemake before that is made, at times."""
    code, printed = folder.run("--dry-run", "--forceall", experiment=experiment)
    assert code == 0, printed
    inputs = inputs_of_outputs(printed)
    monkeypatch.chdir(folder.path)
    values = read_yaml(Path("config/config.yaml")) | {"experiments": [experiment]}
    finished = open_run(experiment, load_workflow(values))
    for name, summary in summaries_of(finished.experiment).items():
        for number, file in enumerate(summary.files(finished.experiment)):
            output = finished.data / file
            alone = path / f"{name}{number}"
            for read in inputs[str(output)]:
                _link(Path(read), alone, finished)
            run = open_run(experiment, load_workflow(values | {"data_dir": str(alone)}))
            table = next(table for table in summary.tables if table.name in (output.stem, output.parent.name))
            write_summary(table, summary.compute(run, _layers(output.stem, finished))[table.name], alone / "made.parquet")
            assert file_digest(alone / "made.parquet") == file_digest(output), file
    return set(summaries_of(finished.experiment))


def _layers(stem: str, run: Run) -> list[int]:
    """Those that a file is of, by its name."""
    return [int(stem[6:])] if stem.startswith("layer_") else list(run.experiment.layer_groups.get(stem, run.layers))


def _link(read: Path, alone: Path, run: Run) -> None:
    """A link to an input below another data folder; a manifest comes with the folders of parts beside it."""
    if not read.is_relative_to(run.workflow.data_dir):
        return
    beside = [path for path in read.parent.iterdir() if path.is_dir()] if read.suffix == ".json" else []
    for source in (read, *beside):
        target = alone / source.relative_to(run.workflow.data_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.exists() and not target.exists():
            target.symlink_to(source.absolute())
