"""The example notebook runs from nothing, and its scores are those of the workflow's functions."""

import nbformat
import polars as pl
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from workflow_folder import ROOT

import saesteer

NOTEBOOK = ROOT / "docs/score_features.ipynb"

pytestmark = pytest.mark.exhaustive


def printed(notebook: NotebookNode) -> list[str]:
    """What cells print."""
    return [output["text"] for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"]


def test_it_runs_and_its_scores_are_the_librarys() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = printed(notebook)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell["outputs"] = []
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    pictures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    table, texts = printed(notebook)
    assert table == kept[0]  # rounded numbers, also on another machine; texts may differ there where two tokens were nearly tied
    assert texts.count("\n") == 12
    lm = saesteer.load_model(ROOT / "data/world/model")
    score = saesteer.output_scores(lm, saesteer.load_sae(ROOT / "data/world/saes/layer_06"), [560])["output_score"].item()
    (row,) = (line for line in table.splitlines() if line.startswith("│ 560 "))
    assert float(row.split("┆")[3]) == round(score, 4)
    assert pl.Series(texts.splitlines()).str.contains("^(560|550), factor (0|1.6|2): ").all()
