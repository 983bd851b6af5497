"""What every script of a rule does first: read the configuration, start the log, report errors in one line, stop in order."""

import gc
import importlib.metadata
import json
import logging
import platform
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from saesteer.core.store import complete, read_rows
from saesteer.core.tables import GENERATIONS
from saesteer.settings import Experiment, Workflow, load_experiment, load_workflow
from saesteer.sources.pins import fetched_folder, model_settings
from saesteer.sources.prefixes import read_prefixes
from saesteer.workflow.keys import FURTHER_FILES
from saesteer.workflow.plan import layer_groups, wanted
from saesteer.workflow.steps import plans

if TYPE_CHECKING:
    from saesteer.world.judges import WorldJudge

LIBRARIES = ("torch", "transformers", "tokenizers", "sae-lens", "numpy", "polars")

log = logging.getLogger("saesteer")

# Importing torch and transformers makes millions of objects that stay: to look for garbage among them after every 700 takes a quarter
# of the time until a model is loaded.
gc.set_threshold(100_000, 50, 50)


class Stop:
    """SIGTERM (preemption, a time limit, scancel) as an orderly exit: what is finished is written out, the rest is dropped."""

    def __init__(self) -> None:
        self.code: int | None = None
        signal.signal(signal.SIGTERM, self._come)

    def _come(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # SLURM and Snakemake may both send it, and writing out must not be disturbed
        self.code = 128 + number
        raise SystemExit(self.code)

    def check(self) -> None:
        """Exit now if the signal came where an exception is swallowed or replaced, as in some libraries' imports and contexts."""
        if self.code is not None:
            raise SystemExit(self.code)


@dataclass(frozen=True)
class Job:
    experiment: Experiment
    inputs: dict[str, list[Path]]
    outputs: dict[str, Path]
    wildcards: dict[str, str]
    threads: int
    workflow: Workflow
    stop: Stop
    code: str
    """Digest of the code that the job runs."""

    @property
    def layers(self) -> tuple[int, ...]:
        return layer_groups(self.experiment)[self.wildcards["layers"]]

    def input(self, name: str) -> Path:
        """The one file behind a name of the rule's input."""
        (path,) = self.inputs[name]
        return path

    def model_folder(self, name: str = "model") -> Path:
        """The folder of a model: the experiment file's own, or where the model from the hub was put."""
        settings = model_settings(self.experiment, name)
        return settings.path or fetched_folder(self.input(f"{name}_files"))

    def topics(self) -> list[str]:
        """The topics of a shipped world, by number."""
        names: list[str] = json.loads(self.input("topics_file").read_text(encoding="utf-8"))
        return names

    def world_judge(self) -> "WorldJudge":
        """The judge of a shipped world, which the experiment names."""
        from saesteer.core.tokens import load_tokens
        from saesteer.world.judges import load_judge

        return load_judge(self.experiment.judge.oracle, load_tokens(self.model_folder()))

    def prefixes(self) -> dict[str, str]:
        """prefix_id -> prefix of the sweep, or prompt of the comparison of methods."""
        methods = self.experiment.methods
        n = methods.n_prompts if methods and self.experiment.until == "methods" else self.experiment.sweep.n_prefixes
        return read_prefixes(self.input("prefixes_file"), n)


def open_job(snakemake: Any) -> Job:
    """Start the rule's log file and read what the job is about."""
    start_log(Path(snakemake.log[0]))
    workflow = load_workflow(snakemake.config)
    return Job(
        experiment=load_experiment(snakemake.wildcards.experiment, workflow.experiments_dir),
        inputs={name: _paths(value) for name, value in snakemake.input.items()},
        outputs={name: Path(value) for name, value in snakemake.output.items()},
        wildcards=dict(snakemake.wildcards.items()),
        threads=snakemake.threads,
        workflow=workflow,
        stop=Stop(),
        code=snakemake.params.get("code", ""),
    )


def complete_step(job: Job, step: str, compute: Callable[[pl.DataFrame], Iterable[pl.DataFrame]]) -> None:
    """Compute the step's missing rows of the job's layers, and write the manifest."""
    manifest = job.outputs["manifest"]
    plan = plans(job.experiment)[step]
    files = {name: job.input(name) for name in (*plan.inputs, *FURTHER_FILES) if name in job.inputs}
    wants = wanted(job.experiment, step, job.layers, files)
    made_with = {"code": job.code, **library_versions()}

    def until_stopped(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
        for frame in compute(missing):
            yield frame
            job.stop.check()

    try:
        complete(manifest.parent, plan.table, wants, until_stopped, manifest, job.workflow.part_seconds, made_with)
    except BaseException:  # the exit, or what a library that it came through made of it
        if job.stop.code is not None:
            log.warning("%s: told to stop (SIGTERM); rows finished so far are kept, and the next run goes on from them", step)
        job.stop.check()
        raise


def missing_texts(job: Job, missing: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """The texts of missing keys, with some of their columns."""
    texts = read_rows(GENERATIONS, job.inputs["generations"], job.layers, columns)
    return texts.join(missing, on=GENERATIONS.keys, how="semi", maintain_order="left")


def by_layer(missing: pl.DataFrame) -> Iterator[tuple[int, pl.DataFrame]]:
    """The missing keys, one layer after the other."""
    for (layer,), rows in missing.group_by("layer", maintain_order=True):
        yield int(layer), rows


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose arithmetic, tokenisers or models rows come from."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}}


def _paths(value: Any) -> list[Path]:
    return [Path(value)] if isinstance(value, str) else [Path(path) for path in value]


def start_log(path: Path) -> None:
    """Log to the rule's file and to the terminal; an error that nothing catches is one line there, its traceback in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.WARNING,  # of other libraries
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[logging.FileHandler(path, mode="w", encoding="utf-8"), logging.StreamHandler(sys.stderr)],
    )

    log.setLevel(logging.INFO)

    def report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        log.error("%s: %s (traceback in %s)", kind.__name__, error, path)
        logging.FileHandler(path).emit(logging.makeLogRecord({"msg": "traceback", "exc_info": (kind, error, trace)}))

    sys.excepthook = report
