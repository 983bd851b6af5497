"""This machine without a GPU: its cores, its free memory, and how fast it multiplies now, whatever else runs on it."""

import os
import time

import torch

from saesteer.engine.memory import free_bytes

_SIZE, _REPEATS = 1024, 3


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that can still be allocated."""
    return free_bytes(torch.device("cpu"))


def peak_flops() -> float:
    """Operations a second of one large matrix product on all cores, best of several."""
    left, right = torch.randn(2, _SIZE, _SIZE)
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * _SIZE**3 / best
