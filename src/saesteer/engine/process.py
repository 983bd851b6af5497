"""What a process that runs a model is set to before it loads one."""

import ctypes
import os
import platform

import torch

FREED_BYTES = 2**28
"""Freed memory that a process holds for its next tensors, and the largest tensor that takes from it."""


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
