"""The process that runs a model and its processor: what it is set to before it loads one, its cores, and how fast they multiply now,
whatever else runs on them."""

import ctypes
import os
import platform
import time

import torch

FREED_BYTES = 2**28
"""Freed memory that a process holds for its next tensors, and the largest tensor that takes from it."""

_SIZE, _REPEATS = 1024, 3
"""Size and repetitions of the matrix product that tells how fast the cores are."""


def prepare_process(n_threads: int) -> None:
    """The number of CPU threads, no network, and memory that is used again."""
    torch.set_num_threads(n_threads)
    # Compute nodes have no internet, and a job must not wait for one: everything is fetched before, by rules that run elsewhere.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    # glibc hands the tensors of each step back to the system, and to get their pages anew takes up to a fifth of a small model's time.
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    if platform.libc_ver()[0] == "glibc":
        for option in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(option, FREED_BYTES)


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_flops() -> float:
    """Operations a second of one large matrix product on all cores, best of several."""
    left, right = torch.randn(2, _SIZE, _SIZE)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * _SIZE**3 / best
