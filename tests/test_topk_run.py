"""An experiment with TopK SAEs as sparsify saves them, from their folders to the selection."""

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import torch
from engine_models import WORLD, shipped_model
from safetensors.torch import load_file, save_file
from workflow_folder import Folder

from saesteer.core.store import read_rows
from saesteer.core.tables import ACTIVATIONS
from saesteer.engine.models import residual_at

pytestmark = pytest.mark.exhaustive
K, LAYERS = 12, (2, 6)


def as_sparsify(layer: int, folder: Path) -> None:
    """The shipped SAE of a layer without its thresholds, of whose activations the K largest are kept."""
    t = load_file(WORLD / f"saes/layer_{layer:02d}/sae_weights.safetensors")
    folder.mkdir(parents=True)
    tensors = {
        "encoder.weight": t["W_enc"].T,
        "encoder.bias": t["b_enc"] + t["b_dec"] @ t["W_enc"],
        "W_dec": t["W_dec"],
        "b_dec": t["b_dec"],
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"expansion_factor": 8, "normalize_decoder": True, "num_latents": 0, "k": K, "d_in": 128}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("topk") / "run")
    for layer in LAYERS:
        as_sparsify(layer, folder.path / f"my/layers.{layer}")
    folder.edit("micro", saes={"path": "my/layers.{layer}"})
    code, output = folder.run(*(f"data/micro/tables/{name}.parquet" for name in ("features", "steering")), "figures/micro/overview.pdf")
    assert code == 0, output
    return folder


def test_activations_are_the_k_largest_of_sparsifys_formula(folder: Folder) -> None:
    rows = read_rows(ACTIVATIONS, sorted((folder.path / "data/micro/activations").glob("layers_*.json")))
    texts = pl.read_parquet(WORLD / "texts.parquet").head(3)
    for layer in LAYERS:
        t = {name: tensor.float() for name, tensor in load_file(folder.path / f"my/layers.{layer}/sae.safetensors").items()}
        for text_id, ids in texts["text_id", "token_ids"].iter_rows():
            residual = residual_at(shipped_model(), torch.tensor([ids] * 32), layer + 1)[0, 1:]
            pre = torch.nn.functional.linear(residual - t["b_dec"], t["encoder.weight"], t["encoder.bias"]).relu()
            top = pre.topk(K, dim=1)
            expected = torch.zeros_like(pre).scatter(1, top.indices, top.values)
            (row,) = rows.filter(layer=layer, text_id=text_id).iter_rows(named=True)
            ours = torch.zeros_like(pre)
            ours[torch.tensor(row["token_index"]) - 1, torch.tensor(row["feature"])] = torch.tensor(row["value"])
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-3)
            assert max(Counter(row["token_index"]).values()) <= K


def test_every_feature_is_scored_and_steered(folder: Folder) -> None:
    features = pl.read_parquet(folder.path / "data/micro/tables/features.parquet")
    assert features.height == 8
    assert features["output_score"].is_between(0, 1).all()
    texts = folder.table("generations")
    assert texts.height == 8 * 3 * 4
    steered, unsteered = (set(texts.filter(factor=factor)["text"]) for factor in ("4", "0"))
    assert not steered & unsteered
    assert (folder.path / "figures/micro/overview.pdf").is_file()
