"""The workflow with jobs on a pretended GPU gives the tables of a CPU's."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from run_records import LAST_STEPS
from test_methods_workflow import NAME, compare, run
from workflow_folder import GPU_STEPS, Folder

from saesteer.core.tables import STEPS

PRETENDING = '''
import importlib.abc, importlib.util, sys


class AfterDtypes(importlib.abc.MetaPathFinder):
    """Once the module that says which device there is has been imported, there is a GPU."""

    def find_spec(self, name, path, target=None):
        if name != "saesteer.engine.dtypes":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def then_pretend(module):
            run(module)
            module.available_device = lambda: "cuda"
            from pretended_gpu import pretended_gpu
            self.context = pretended_gpu()
            self.context.__enter__()

        spec.loader.exec_module = then_pretend
        sys.modules["pretending"] = self
        return spec


sys.meta_path.insert(0, AfterDtypes())
'''


class GpuFolder(Folder):
    """A folder whose jobs find a GPU."""

    @property
    def environment(self) -> dict[str, str]:
        place = self.path.parent / "pretending"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(PRETENDING)
        inherited = super().environment
        return inherited | {"PYTHONPATH": f"{place}:{Path(__file__).parent}:{inherited['PYTHONPATH']}"}


KEYS = ("layer", "vector", "feature", "text_id", "method", "target", "concept_id", "factor", "prefix_id", "sample")


def assert_alike(folder: Folder, expected: Folder, experiment: str, steps: Iterable[str]) -> None:
    """Equal rows but for numbers in their last digits; seconds and interventions' own numbers are left out."""
    for step in steps:
        rows, theirs = (one.table(step, experiment) for one in (folder, expected))
        keys = [name for name in KEYS if name in rows.columns]
        rows, theirs = (table.drop("seconds", "fit_seconds", "tensors", "values", strict=False).sort(keys) for table in (rows, theirs))
        assert_frame_equal(rows, theirs, check_exact=False, rel_tol=1e-3, abs_tol=1e-4)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_smallest_experiment(finished: Folder, tmp_path: Path) -> None:
    folder = GpuFolder(tmp_path / "repo")
    code, output = folder.run(*LAST_STEPS)
    assert code == 0, output
    logs = [path.read_text() for step in GPU_STEPS for path in (folder.path / "logs/micro" / step).glob("*.log")]
    assert sum("on cuda" in log for log in logs) == len(GPU_STEPS)
    assert_alike(folder, finished, "micro", STEPS)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_smallest_comparison_of_methods(tmp_path: Path) -> None:
    folder, expected = GpuFolder(tmp_path / "gpu/repo"), Folder(tmp_path / "cpu/repo")
    for one in (folder, expected):
        compare(one)
        run(one)
    logs = [path.read_text() for step in ("effects", "fits", "generations") for path in (folder.path / "logs" / NAME / step).glob("*.log")]
    assert all("on cuda" in log for log in logs)
    assert_alike(folder, expected, NAME, ("effects", "fits", "generations", "perplexity", "judge"))
