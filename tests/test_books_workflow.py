"""The experiments on the books' model, with few features and texts: every figure is made, and nothing is left to do."""

import json

import polars as pl
import pytest
import yaml
from workflow_folder import ROOT, Folder

from saesteer.core.tables import METHOD_SUMMARIES, read_summary
from saesteer.settings import load_experiment
from saesteer.workflow.outputs import figures

pytestmark = pytest.mark.exhaustive

N_TEXTS = 600
TOPICS = ["cooking", "medicine", "music", "railways", "sea", "war"]


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


def test_methods_learn_from_the_sentences_that_the_model_wrote(folder: Folder):
    methods = yaml.safe_load((folder.path / "config/experiments/books-methods.yaml").read_text())["methods"]
    methods |= {"methods": ["unsteered", "diffmean", "prompting"], "n_prompts": 2}
    methods["concepts"]["names"] = TOPICS
    folder.edit("books-methods", layers=[4], methods=methods | {"factors": {"addition": ["0.4", "1"], "prompt": ["1"]}})
    code, output = folder.run(experiment="books-methods")
    assert code == 0, output
    scores = read_summary(METHOD_SUMMARIES["methods"], folder.path / "data/books-methods/tables/methods.parquet")
    assert scores["n"].unique().to_list() == [len(TOPICS)]
    by_method = dict(scores.select("method", "score").iter_rows())
    assert by_method["diffmean"] > by_method["unsteered"]
