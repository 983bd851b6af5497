"""The workflow with jobs on a pretended GPU gives the tables of a CPU's."""

from pathlib import Path

import pytest
from gpu_folder import GpuFolder, assert_alike
from run_records import LAST_STEPS
from workflow_folder import GPU_STEPS, MAIN_STEPS, Folder


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_smallest_experiment(finished: Folder, tmp_path: Path) -> None:
    folder = GpuFolder(tmp_path / "repo")
    code, output = folder.run(*LAST_STEPS)
    assert code == 0, output
    logs = [path.read_text() for step in GPU_STEPS for path in (folder.path / "logs/micro" / step).glob("*.log")]
    assert sum("on cuda" in log for log in logs) == len(GPU_STEPS)
    assert_alike(folder, finished, "micro", MAIN_STEPS)
