"""Ctrl-C in a run on this machine: its jobs stop in order, as at SIGTERM, and nothing prints a traceback."""

import logging
import signal
import sys
from typing import Any

import psutil

SHELL_PREFIX = "set -euo pipefail; trap '' INT; "
"""Snakemake's own prefix of a job's command, and that the job does not hear the terminal's Ctrl-C: Snakemake tells it to stop."""


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
