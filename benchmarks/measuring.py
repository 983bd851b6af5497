"""What the benchmarks share: seconds used by a piece of work, the machine's own speed, and how busy it is with something else."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Used:
    """Seconds that a piece of work took, and what came out."""

    process: float  # of this process' threads: what counts on a shared machine
    wall: float
    result: Any


def used(work: Callable[[], Any], device: str = "cpu") -> Used:
    """Run once; on a GPU wait until it has really finished."""
    wait_for(device)
    wall, process = time.perf_counter(), time.process_time()
    result = work()
    wait_for(device)
    return Used(time.process_time() - process, time.perf_counter() - wall, result)


def wait_for(device: str) -> None:
    """A GPU's work is only queued when a call returns."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_flops(device: str = "cpu", dtype: str = "float32", size: int = 2048, repeats: int = 5) -> float:
    """Operations a second of one large matrix product, best of several: by process time on the CPU, by wall time on a GPU."""
    left, right = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    times = [used(lambda: left @ right, device) for _ in range(repeats)]
    return 2 * size**3 / min(took.process if device == "cpu" else took.wall for took in times)


def load_note() -> str:
    """Under which load numbers were taken."""
    one, five, _ = os.getloadavg()
    return f"{platform.machine()}, {os.cpu_count()} CPUs, load average {one:.1f} (1 min) and {five:.1f} (5 min) at the end"
