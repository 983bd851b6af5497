"""What the scripts that run a model share: the device, the model, progress.

Imports torch, so scripts import it only when rows are missing.
"""

import ctypes
import logging
import os
import platform
import time
from collections.abc import Iterable, Iterator

import polars as pl
import torch
from common import Job
from tqdm import tqdm

# Compute nodes have no internet, and a job must not wait for one: everything is fetched before, by rules that run elsewhere.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

from saesteer.engine.dtypes import available_device
from saesteer.engine.models import LanguageModel, load_language_model
from saesteer.sources.pins import model_settings

log = logging.getLogger("saesteer")

KEPT_BYTES = 2**28
"""Freed memory that a process keeps for its next tensors, and the largest tensor that takes from it."""


def _keep_freed_memory() -> None:
    """glibc hands the tensors of each step back to the system, and to get their pages anew takes up to a fifth of a small model's time."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    if platform.libc_ver()[0] == "glibc":
        for option in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(option, KEPT_BYTES)


_keep_freed_memory()


def open_model(job: Job, name: str = "model") -> LanguageModel:
    """Load a model, with as many CPU threads as the rule asks for, and log what it is."""
    settings, folder, device = model_settings(job.experiment, name), job.model_folder(name), available_device()
    torch.set_num_threads(job.threads)
    log.info("model %s, revision %s, %s on %s", settings.name, settings.revision or "by its files' digests", settings.dtype, device)
    return load_language_model(folder, settings.dtype, device, settings.bos, settings.prompt_format, settings.chat)


def with_progress(frames: Iterable[pl.DataFrame], total: int, unit: str, tokens: str | None = None) -> Iterator[pl.DataFrame]:
    """Pass finished frames on; show how many of the rows are done, the time left, and log rows/s (and tokens/s) at the end."""
    started, n_rows, n_tokens = time.monotonic(), 0, 0
    with tqdm(total=total, unit=unit, mininterval=5) as bar:
        for frame in frames:
            n_rows += frame.height
            n_tokens += int(frame[tokens].cast(pl.Int64).sum()) if tokens else 0
            bar.update(frame.height)
            yield frame
    seconds = max(time.monotonic() - started, 1e-9)
    log.info(
        "%d %ss in %.1f s, %.0f/s%s", n_rows, unit, seconds, n_rows / seconds, f", {n_tokens / seconds:.0f} tokens/s" if tokens else ""
    )
