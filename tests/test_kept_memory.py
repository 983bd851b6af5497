"""Processes that run a model hold freed memory for the next tensors; without that, a block's pages come from the system each time."""

import os
import platform
import resource
import subprocess

import pytest
from workflow_folder import BIN, ROOT

PAGES = 48 * 2**20 // resource.getpagesize()
"""Of a tensor larger than what glibc keeps by itself."""

PROGRAM = """
import resource
from saesteer.engine.process import prepare_process
prepare_process(1)
import torch
for _ in range(10):
    torch.ones(12 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(12 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
"""Prints the page faults of ten tensors; without the preparation, ten times PAGES."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_a_block_is_used_again() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([str(BIN / "python"), "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 2 * PAGES
