"""A run in a terminal: what it shows of a run on this machine, and Ctrl-C, at which jobs stop in order, as at SIGTERM."""

import logging
import signal
import sys
from typing import Any

import psutil

from saesteer.core.errors import SaesteerError

SHELL_PREFIX = "set -euo pipefail; trap '' INT; "
"""Snakemake's own prefix of a job's command, and that the job does not hear the terminal's Ctrl-C: Snakemake tells it to stop."""


class Progress(logging.Filter):
    """What is shown of Snakemake's messages: how many jobs are done, warnings and errors; its log in .snakemake/log has the rest. In a
    terminal the count stays on one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_terminal = sys.stderr.isatty()
        if getattr(getattr(record, "event", None), "name", None) == "PROGRESS":
            done, total = record.__dict__["done"], record.__dict__["total"]
            if is_terminal:
                sys.stderr.write(f"\r\x1b[K{done} of {total} jobs done" + "\n" * (done == total))
            return not is_terminal
        is_shown = record.levelno > logging.INFO or record.getMessage().startswith("Nothing to be done")
        if is_shown and is_terminal:
            sys.stderr.write("\r\x1b[K")
        return is_shown


def show_refusals_alone(logger: logging.Logger) -> None:
    """Show what the package refuses by its message, without the lines of rules and code that Snakemake puts around it."""
    kinds: list[type] = [SaesteerError, *SaesteerError.__subclasses__()]
    names = {kind.__name__ for kind in kinds}

    def shortened(record: logging.LogRecord) -> bool:
        if getattr(record, "exception", None) in names:
            _, *lines = record.getMessage().splitlines()
            record.msg = "\n".join(line for line in lines if not line.startswith('  File "'))
        return True

    logger.addFilter(shortened)


def show_progress_only(logger: logging.Logger) -> None:
    """Let a terminal have no more than that; the log file keeps all."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.addFilter(Progress())


def stop_jobs_at_ctrl_c(logger: logging.Logger) -> None:
    """The first Ctrl-C ends Snakemake's work as always; each one tells the jobs, the latest too, to write out what they have finished. What
    Snakemake then says of these jobs' failure is no error of theirs: its log file alone has it."""

    is_first = True

    def come(number: int, frame: Any) -> None:
        nonlocal is_first
        for job in psutil.Process().children(recursive=True):
            job.terminate()
        if is_first:
            is_first = False
            logger.warning("Stopping: the jobs write out what they have finished, and the same command goes on from there.")
            for handler in logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.addFilter(lambda record: record.levelno < logging.ERROR)
            raise KeyboardInterrupt

    def report(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            report_others(kind, error, trace)

    report_others, sys.excepthook = sys.excepthook, report
    signal.signal(signal.SIGINT, come)
