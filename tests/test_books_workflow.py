"""The experiments on the books' model, with few features and texts: every figure is made, and nothing is left to do."""

import json

import polars as pl
import pytest
from workflow_folder import ROOT, Folder

from saesteer.settings import load_experiment
from saesteer.workflow.outputs import figures

pytestmark = pytest.mark.exhaustive

N_TEXTS = 600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("books") / "repo")
    pl.read_parquet(ROOT / "data/world-books/texts.parquet").head(N_TEXTS).write_parquet(folder.path / "texts.parquet")
    sweep = {"factors": [0, 2, 4], "prefixes": "config/prefixes.txt", "n_prefixes": 2}
    features = {"kind": "sampled", "n_per_layer": 60, "seed": 0}
    folder.edit(
        "books",
        layers=[4],
        features=features,
        sweep=sweep,
        max_activating_examples={"kind": "local", "texts": "texts.parquet", "n_examples": 20},
        layers_per_job=1,
    )
    return folder


def test_every_figure_is_made(folder: Folder):
    code, output = folder.run(experiment="books")
    assert code == 0, output
    names = figures(load_experiment("books", folder.path / "config/experiments"))
    assert len(names) == 10
    assert all((folder.path / f"figures/books/{name}.{ending}").stat().st_size > 100 for name in names for ending in ("pdf", "png"))
    numbers = json.loads((folder.path / "data/books/metrics.json").read_text())
    assert numbers["features"]["n"] == 60
    assert numbers["features"]["n_with_concept"] > 0
    code, output = folder.run("-n", experiment="books")
    assert "Nothing to be done" in output, output
