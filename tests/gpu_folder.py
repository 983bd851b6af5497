"""A folder whose jobs find a pretended GPU, and what its tables have to share with a CPU's."""

from collections.abc import Iterable
from pathlib import Path

from polars.testing import assert_frame_equal
from workflow_folder import Folder

PRETENDING = '''
import importlib.abc, importlib.util, sys


class AfterWeights(importlib.abc.MetaPathFinder):
    """Once the module that says which device there is has been imported, there is a GPU."""

    def find_spec(self, name, path, target=None):
        if name != "saesteer.engine.weights":
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


sys.meta_path.insert(0, AfterWeights())
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
