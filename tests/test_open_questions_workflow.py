"""`snakemake open_questions`, with few texts: every table and figure is made, and nothing is left to do."""

from pathlib import Path

import polars as pl
import pytest
from workflow_folder import Folder

from saesteer.core.tables import QUESTION_SUMMARIES, read_summary
from saesteer.figures.names import QUESTION_FIGURE_TABLES

pytestmark = pytest.mark.exhaustive


def test_every_question_is_answered_and_nothing_is_left_to_do(tmp_path: Path):
    folder = Folder(tmp_path / "repo")
    folder.edit("tiny-brute", sweep={"factors": [0, 2], "n_prefixes": 2, "max_new_tokens": 8})
    code, output = folder.run("open_questions", open_questions="[tiny-brute]")
    assert code == 0, output
    data, figures = folder.path / "data/tiny-brute", folder.path / "figures/tiny-brute"
    tables = {name: read_summary(table, data / f"tables/{name}.parquet") for name, table in QUESTION_SUMMARIES.items()}
    assert {name: frame.height for name, frame in tables.items() if frame.is_empty()} == {}
    assert all((figures / f"{name}.{ending}").stat().st_size > 100 for name in QUESTION_FIGURE_TABLES for ending in ("pdf", "png", "csv"))
    texts = pl.scan_parquet(data / "generations/*/layer_*/*.parquet").select(pl.len()).collect().item()
    assert texts == 2 * 1024 * 2 * 2
    code, output = folder.run("open_questions", "-n", open_questions="[tiny-brute]")
    assert code == 0, output
    assert "Nothing to be done" in output
