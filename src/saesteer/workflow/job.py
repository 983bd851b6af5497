"""What the script of every rule does first: start the log, open the experiment, report errors in one line, and stop in order.

The package's science knows nothing of this module; `snakemake` is the object that Snakemake gives to a script.
"""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from saesteer.core.errors import NotFiniteError
from saesteer.core.tables import write_summary
from saesteer.figures.definition import FigureDefinition, Options
from saesteer.figures.save import save_figure
from saesteer.run import Run, open_run
from saesteer.settings import Comparison, Experiment, Sweep, load_workflow
from saesteer.steps.step import step_of
from saesteer.summaries.summary import Summary, summary_tables
from saesteer.summaries.sweeps import has_pilot
from saesteer.workflow.plan import complete_manifest

log = logging.getLogger("saesteer")


class Stop:
    """SIGTERM (preemption, a time limit, scancel) as an orderly exit: what is finished is written out, the rest is dropped."""

    def __init__(self) -> None:
        self.code: int | None = None
        signal.signal(signal.SIGTERM, self._come)

    def _come(self, number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # SLURM and Snakemake may both send it, and writing out must not be disturbed
        self.code = 128 + number
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.check()
        else:
            # Raised between two lines of the loop itself, the exit would lose the callback that was about to run, and cancelling the task
            # that waits for it would never end.
            loop.call_soon_threadsafe(self.check)

    def check(self) -> None:
        """Exit now if the signal came where an exception is swallowed or replaced, as in some libraries' imports and contexts."""
        if self.code is not None:
            raise SystemExit(self.code)


@dataclass(frozen=True)
class Job:
    """A job of a rule: its experiment, the layers that it covers, and where its outputs go."""

    run: Run
    layers: tuple[int, ...]
    outputs: dict[str, Path]
    wildcards: dict[str, str]
    threads: int
    stop: Stop


def open_job(snakemake: Any) -> Job:
    """Start the rule's log file and open the experiment that the job is about."""
    start_log(Path(snakemake.log[0]))
    # Importing torch and transformers makes millions of objects that stay: to look for garbage among them after every 700 takes a quarter
    # of the time until a model is loaded.
    gc.set_threshold(100_000, 50, 50)
    run, wildcards = open_run(snakemake.wildcards.experiment, load_workflow(snakemake.config)), dict(snakemake.wildcards.items())
    outputs = {name: Path(value) for name, value in snakemake.output.items()}
    run, layers = run.of_job(wildcards["layers"]) if "layers" in wildcards else (run, tuple(run.layers))
    layers = (int(wildcards["layer"]),) if "layer" in wildcards else layers
    return Job(run, layers, outputs, wildcards, snakemake.threads, Stop())


def complete_step(job: Job) -> None:
    """Compute the missing rows of the step whose manifest is the job's output, and write the manifest."""
    manifest, run = job.outputs["manifest"], job.run
    name = manifest.parent.name
    step = step_of(run.experiment, name)

    def until_stopped(missing: pl.DataFrame) -> Iterator[pl.DataFrame]:
        if step.runs_model:
            from saesteer.engine.process import prepare_process

            prepare_process(job.threads)
        for frame in with_progress(step.compute(run, missing), missing.height, step.unit, step.tokens, f"{name}/{manifest.stem}"):
            yield frame
            job.stop.check()

    try:
        complete_manifest(run, manifest, job.layers, until_stopped)
    except NotFiniteError as error:
        raise NotFiniteError(f"{name}/{manifest.stem}: {error}", error.row) from error
    except BaseException:  # the exit, or what a library that it came through made of it
        if job.stop.code is not None:
            log.warning("%s: told to stop (SIGTERM); rows finished so far are kept, and the next run goes on from them", name)
        job.stop.check()
        raise


def with_progress(
    frames: Iterable[pl.DataFrame], total: int, unit: str, tokens: str | None = None, name: str | None = None
) -> Iterator[pl.DataFrame]:
    """Pass finished frames on; show whose rows they are, how many are done, the time left, and log rows/s (and tokens/s) at the end."""
    started, n_rows, n_tokens = time.monotonic(), 0, 0
    with tqdm(total=total, desc=name, unit=unit, mininterval=5, leave=False) as bar:
        for frame in frames:
            n_rows += frame.height
            n_tokens += int(frame[tokens].cast(pl.Int64).sum()) if tokens else 0
            bar.update(frame.height)
            yield frame
    seconds = max(time.monotonic() - started, 1e-9)
    log.info(
        "%d %ss in %.1f s, %.0f/s%s", n_rows, unit, seconds, n_rows / seconds, f", {n_tokens / seconds:.0f} tokens/s" if tokens else ""
    )


def write_summaries(job: Job, summary: Summary) -> None:
    """Compute the tables of a summary, and write each to the output of its name."""
    tables = summary.compute(job.run, job.layers)
    for table in summary.tables:
        write_summary(table, tables[table.name], job.outputs[table.name])


def write_figure(job: Job, figure: FigureDefinition) -> None:
    """Draw a figure of the experiment's tables, and write it with the data that it draws."""
    options, tables = figure_options(job.run.experiment), summary_tables()
    data = figure.data({name: job.run.summary(tables[name]) for name in figure.tables}, options)
    save_figure(figure.draw(data), data, job.outputs["pdf"].with_suffix(""))
    log.info("%s %s", figure.caption, figure.counts(data))


def figure_options(experiment: Experiment) -> Options:
    """What of an experiment's settings its figures depend on."""
    rule, choice = "", "held_out"
    if isinstance(experiment, Sweep):
        rule, choice = experiment.best_factor.rule, experiment.best_factor.factor_choice
    elif isinstance(experiment, Comparison):
        choice = experiment.methods.factor_choice
    return Options(rule, experiment.intervals, has_pilot(experiment), in_sample=choice == "same_texts")


def start_log(path: Path) -> None:
    """Log to the rule's file, and warnings to the terminal; an error that nothing catches is one line there, its traceback in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(
        level=logging.WARNING,  # of other libraries
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=[logging.FileHandler(path, mode="w", encoding="utf-8"), terminal],
    )
    log.setLevel(logging.INFO)

    def report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        log.error("%s: %s (traceback in %s)", kind.__name__, error, path)
        logging.FileHandler(path).emit(logging.makeLogRecord({"msg": "traceback", "exc_info": (kind, error, trace)}))

    sys.excepthook = report
