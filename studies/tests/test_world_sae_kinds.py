"""SAEs of other kinds, on data whose directions are known."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sae_lens.saes.sae import SAE

from studies.world import measure, sae_kinds, train_saes
from studies.world.sae_kinds import KindsRecipe
from studies.world.train_saes import SaeRecipe

RECIPE = KindsRecipe(SaeRecipe(d_sae=48, k=4, steps=300, batch=256), sparsities=(2,))


def sparse_data(n: int) -> torch.Tensor:
    """Two layers of sums of 4 of 24 directions in 32 dimensions, off centre."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 32, generator=generator), dim=-1)
    chosen = torch.rand(2, n, 24, generator=generator).argsort(-1)[..., :4]
    codes = torch.zeros(2, n, 24).scatter(-1, chosen, 1 + torch.rand(2, n, 4, generator=generator))
    return 20 * (codes @ directions) + 3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kinds")
    x = sparse_data(6000)
    sae_kinds.build_kinds(x[:, :5000], [1], RECIPE, 0, "test", 64, out)
    sae_kinds.measure_kinds(x[:, 5000:], [1], {name: out / name for name in sae_kinds.names(RECIPE)}, out)
    return out


def test_every_kind_learns(built: Path):
    measured = json.loads((built / sae_kinds.METRICS).read_text())
    assert sorted(measured) == sorted(sae_kinds.names(RECIPE)) == ["gated", "jumprelu", "k2", "topk"]
    assert {name: SAE.load_from_disk(built / name / "layer_01").cfg.architecture() for name in measured} == {
        "k2": "jumprelu",
        "topk": "topk",
        "gated": "gated",
        "jumprelu": "jumprelu",
    }
    shares = {name: of_layer["1"]["explained_variance"] for name, of_layer in measured.items()}
    assert min(shares.values()) > 0.5, shares
    assert measured["topk"]["1"]["l0"] <= RECIPE.sae.k  # TopK keeps k, of which some may be 0
    assert measured["k2"]["1"]["l0"] == pytest.approx(2, abs=1)


def test_the_metrics_are_those_of_the_shipped_saes(built: Path):
    """Measured by sae-lens and by the code that measures the shipped SAEs."""
    folder, x = built / "k2/layer_01", sparse_data(1000)[1]
    theirs, ours = sae_kinds.metrics_of(folder, x), measure.sae_metrics(measure.load_sae(folder), x)
    assert theirs["l0"] == pytest.approx(ours["l0"], rel=1e-4)
    assert theirs["explained_variance"] == pytest.approx(ours["explained_variance"], rel=1e-4)
    assert theirs["silent"] == ours["dead"] / RECIPE.sae.d_sae


def test_decoder_rows_have_norm_1(built: Path):
    for name in sae_kinds.names(RECIPE):
        rows = SAE.load_from_disk(built / name / "layer_01").W_dec
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)), rtol=0, atol=1e-3)


def test_a_sparsity_is_trained_as_the_shipped_saes_are(built: Path, tmp_path: Path):
    weights = train_saes.train_sae(sparse_data(6000)[1, :5000], replace(RECIPE.sae, k=2), 0, 1)
    train_saes.save_sae(weights, tmp_path, 1, "test")
    assert (tmp_path / "sae_weights.safetensors").read_bytes() == (built / "k2/layer_01/sae_weights.safetensors").read_bytes()


def test_only_what_is_missing_is_trained(built: Path, tmp_path: Path):
    files = sorted(built.glob("*/layer_01/*"))
    before = {file: file.stat().st_mtime_ns for file in files}
    sae_kinds.build_kinds(sparse_data(6000)[:, :5000], [1], RECIPE, 0, "test", 64, built)
    assert {file: file.stat().st_mtime_ns for file in files} == before
