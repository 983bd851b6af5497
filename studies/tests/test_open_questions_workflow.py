"""`snakemake -s studies/Snakefile`, with few features and texts: every table and figure is made, and nothing is left to do."""

import json
from pathlib import Path

import polars as pl
import pytest
from safetensors.torch import load_file, save_file
from study_folder import StudyFolder
from workflow_folder import ROOT

from saesteer.core.tables import read_summary
from studies.questions.registry import FIGURES, QUESTION_TABLES

pytestmark = pytest.mark.exhaustive

N_FEATURES = 24
SWEEP = {"factors": [0, 1, 2], "n_prefixes": 2, "max_new_tokens": 6, "prefixes": "prompts.txt"}


def write_first_features(source: Path, target: Path) -> None:
    """An SAE of the first features of another."""
    target.mkdir(parents=True)
    weights = load_file(source / "sae_weights.safetensors")
    cut = {name: weights[name][:N_FEATURES].contiguous() for name in ("W_dec", "b_enc", "threshold")}
    save_file(weights | cut | {"W_enc": weights["W_enc"][:, :N_FEATURES].contiguous()}, target / "sae_weights.safetensors")
    config = json.loads((source / "cfg.json").read_text())
    (target / "cfg.json").write_text(json.dumps(config | {"d_sae": N_FEATURES}))


def test_every_question_is_answered_and_nothing_is_left_to_do(tmp_path: Path):
    folder = StudyFolder(tmp_path / "repo")
    for layer in (3, 6):
        write_first_features(ROOT / f"data/world/saes/layer_{layer:02d}", folder.path / f"saes/layer_{layer:02d}")
    lines = (ROOT / "config/prefixes.txt").read_text().splitlines(keepends=True)
    (folder.path / "prompts.txt").write_text("".join(lines[:8]))  # two that choose, six that report
    saes = {"path": "saes/layer_{layer:02d}", "d_model": 128, "n_features": N_FEATURES}
    folder.edit("tiny-brute", saes=saes, sweep=SWEEP, layers_per_job=2)
    code, output = folder.run("open_questions", experiment="tiny-brute")
    assert code == 0, output
    data, figures = folder.path / "data/tiny-brute", folder.path / "figures/tiny-brute"
    tables = {name: read_summary(table, data / f"tables/{name}.parquet") for name, table in QUESTION_TABLES.items()}
    assert not [name for name, frame in tables.items() if frame.is_empty()]
    names = [name for name, figure in FIGURES.items() if {*figure.tables} <= {*QUESTION_TABLES}]
    assert names == ["choice_rules"]
    assert all((figures / f"{name}.{ending}").stat().st_size > 100 for name in names for ending in ("pdf", "png", "csv"))
    texts = pl.scan_parquet(data / "generations/*/layer_*/*.parquet").select(pl.len()).collect().item()
    assert texts == 2 * N_FEATURES * 3 * 2
    code, output = folder.run("-n", experiment="tiny-brute")
    assert code == 0, output
    assert "Nothing to be done" in output
