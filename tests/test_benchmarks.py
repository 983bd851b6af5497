"""The benchmarks run on tiny slices and say what they rest on; their arithmetic is right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # programs, which import one another from their own folder

from cluster_scaling import Job, critical_path, simulated_wall
from random_model import GEMMA_2_2B, GEMMA_2_9B, Shape, random_gemma2

ROOT = Path(__file__).parents[1]
SMALL = Shape(n_vocab=50, d_model=16, n_layers=2, n_features=8, n_heads=4, n_kv_heads=2, head_dim=8, d_mlp=40)


def run(program: str, *arguments: object) -> str:
    """What a benchmark prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / program), *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_counted_weights_are_those_of_the_model() -> None:
    shape = SMALL
    lm = random_gemma2(shape, ("a text",))
    matrices = [weight.numel() for block in lm.blocks for weight in block.parameters() if weight.dim() == 2]
    assert sum(matrices) == shape.n_layers * shape.block_weights
    assert shape.n_parameters == sum(matrices) + lm.head.weight.numel()
    assert shape.feature_flops(0) == 2 * (sum(matrices) / 2 + lm.head.weight.numel())
    assert shape.feature_flops(1) == 2 * lm.head.weight.numel()
    assert shape.token_flops == 2 * (shape.n_parameters + 8 * 16)


def test_gemmas_sizes() -> None:
    assert GEMMA_2_2B.n_layers * GEMMA_2_2B.n_features == 425_984
    assert GEMMA_2_2B.n_parameters == pytest.approx(2.614e9, rel=1e-3)
    assert GEMMA_2_9B.n_parameters == pytest.approx(9.241e9, rel=1e-3)


@pytest.mark.exhaustive
def test_a_model_of_ones_own_is_measured_beside_generate_and_sae_lens() -> None:
    world = ROOT / "data" / "world"
    options = ("--texts", world / "texts.parquet", "--sizes", 3, 5, "--repeats", 1, "--write", "none")
    printed = run("real_model.py", world / "model", *options)
    rows = [[cell.strip() for cell in line.split("|")] for line in printed.splitlines() if line.startswith("| ")]
    for work in ("activations of texts", "losses", "output scores"):
        assert [row[2] for row in rows if row[1] == work] == ["3", "5"]
    steered = [row for row in rows if row[1] in ("3", "5")]
    assert [row[1] for row in steered] == ["3", "5"]
    assert all(float(rate.replace(",", "")) > 0 for row in steered for rate in (row[2], *row[4:6]))  # here, generate, sae-lens


def test_simulated_cluster_by_hand() -> None:
    jobs = [Job("sweep", 0, 5.0, None), Job("sweep", 1, 5.0, None), Job("perplexity", 0, 12.0, 0), Job("perplexity", 1, 12.0, 1)]
    assert critical_path(jobs) == 17
    # Both sweeps are seen at the look at 10 s; both perplexities run to 22 s and are seen at 10 + 10 + 20 = 40 s with two GPUs: the look
    # at 20 s finds nothing ended.
    assert simulated_wall(jobs, 2) == 40
    # One GPU: 5 and 10 s, seen at 10; then 22 and 34 s: looks at 20, 40.
    assert simulated_wall(jobs, 1) == 40
    assert simulated_wall(jobs, 8) == 40


@pytest.mark.exhaustive
@pytest.mark.slow
def test_cluster_page(tmp_path: Path) -> None:
    printed = run("cluster_scaling.py", "--figure", tmp_path / "cluster" / "scaling", "--write", "none")
    assert "nothing here ran on a GPU" in printed
    assert (tmp_path / "cluster/scaling.png").is_file()
