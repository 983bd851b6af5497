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
{first}
import torch
for _ in range(10):
    torch.ones(12 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(12 * 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(first: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [str(BIN / "python"), "-c", PROGRAM.format(first=first)]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_a_block_is_used_again() -> None:
    assert page_faults("from saesteer.engine.process import prepare_process\nprepare_process(1)") < 2 * PAGES
    assert page_faults("") > 9 * PAGES
