"""The benchmarks run on tiny slices and say what they rest on; their arithmetic is right."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # programs, which import one another from their own folder

from cluster_scaling import EXPERIMENTS, SIMULATED, Job, critical_path, jobs_of, simulated_wall
from cpu_slice import Cost, Rates, extrapolation_lines, marginal
from feature_jobs import EXPERIMENTS as SPREAD
from feature_jobs import GPUS, efficiency
from gemma_2_2b import FACTORS, PREFIXES, PROMPT, Amount, Result, gpu_lines, rows_that_fit, score_layers, write_saes
from growth import straight_line
from random_model import GEMMA_2_2B, GEMMA_2_9B, Shape, random_gemma2, random_sae
from where_time_goes import OWN_CODE, PARTS, profiled

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
@pytest.mark.slow
def test_real_shapes_shrunk_on_a_cpu_say_that_no_gpu_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    sizes = ("--layers", 2, "--vocab", 300, "--features", 64, "--width", 32)
    printed = run("gemma_2_2b.py", "--random-weights", *sizes, "--device", "cpu", "--write", page)
    assert page.read_text().strip() == printed.strip()
    assert "**Not measured on a GPU**" in printed
    assert "`OMP_NUM_THREADS=1 python benchmarks/gemma_2_2b.py --random-weights --layers 2 --vocab 300 --features 64 --width 32" in printed
    assert "Nothing is extrapolated from it" in printed  # the sizes are not the real ones
    assert "Arithmetic, not a measurement: output score and logit lens take 1.83 PFLOP, the sweep 165" in printed


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


def test_rows_that_fit_grow_with_memory_and_refuse_too_little() -> None:
    fitting = [rows_that_fit(GEMMA_2_2B, "bfloat16", gib) for gib in (10, 24, 60)]
    assert fitting == sorted(fitting)
    assert fitting[0] < fitting[2]
    assert all(n >= 32 and n & (n - 1) == 0 for n in fitting)
    with pytest.raises(SystemExit, match="GiB are too few"):
        rows_that_fit(GEMMA_2_2B, "float32", 8)


def test_extrapolation_counts_every_layer_and_block() -> None:
    rates = Rates(lens=1.0, score=Cost(block=2.0, rest=3.0), sweep=Cost(block=1.0, rest=4.0), load_wall=0, peak_gib=0, device_flops=1)
    printed = " ".join(extrapolation_lines(GEMMA_2_2B, rates, paper_tokens=86_400))
    hours = sum(16_384 * (1 + 3 + 2 * (25 - layer)) for layer in range(26)) / 3600
    assert f"**{hours:,.1f} hours**" in printed
    assert "**30.0 days**" in printed  # 4 s and 26 blocks of 1 s a token


def test_a_further_rows_cost_leaves_out_what_is_done_once() -> None:
    from random_model import random_gemma2

    def busy(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    lm = random_gemma2(SMALL, ("a text",))
    cost = marginal(lm, lambda n: busy(0.2 + 0.01 * n), (5, 25), 1, 2)
    assert cost.block == 0
    assert cost.rest == pytest.approx(0.01, rel=0.2)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_growth_on_small_values(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    run("growth.py", "--repeats", 1, "--most", 4, "--figure", tmp_path / "growth", "--write", page)
    assert "Fixed cost of a job" in page.read_text()
    table = pl.read_csv(tmp_path / "growth.csv")
    assert table.columns == ["step", "quantity", "value", "process_seconds"]
    assert (table["process_seconds"] > 0).all()
    assert all((tmp_path / f"growth.{kind}").stat().st_size > 1000 for kind in ("pdf", "png"))


def test_straight_line_through_exact_points() -> None:
    x = np.array([10.0, 100.0, 10_000.0])
    line = straight_line(x, 0.5 + 0.003 * x)
    assert (line.fixed, line.slope) == pytest.approx((0.5, 0.003))
    assert line.worst < 1e-9


def test_simulated_cluster_by_hand() -> None:
    jobs = [Job("sweep", 0, 5.0, None), Job("sweep", 1, 5.0, None), Job("perplexity", 0, 12.0, 0), Job("perplexity", 1, 12.0, 1)]
    assert critical_path(jobs) == 17
    # Both sweeps are seen at the look at 10 s; both perplexities run to 22 s and are seen at 10 + 10 + 20 = 40 s with two GPUs: the look
    # at 20 s finds nothing ended.
    assert simulated_wall(jobs, 2) == 40
    # One GPU: 5 and 10 s, seen at 10; then 22 and 34 s: looks at 20, 40.
    assert simulated_wall(jobs, 1) == 40
    assert simulated_wall(jobs, 8) == 40


def test_more_gpus_never_fall_below_the_bound() -> None:
    for experiment in EXPERIMENTS:
        jobs = jobs_of(experiment, 180)
        assert len(jobs) == 4 * experiment.model.n_layers
        work = sum(job.seconds for job in jobs)
        walls = [simulated_wall(jobs, n) for n in SIMULATED]
        assert all(wall >= max(work / n, critical_path(jobs)) for wall, n in zip(walls, SIMULATED, strict=True))
        assert walls[0] > 7 * walls[3]  # eight GPUs


def test_a_layer_spread_over_jobs_by_hand() -> None:
    """Half of the features a job: as many operations, and a start more. Scores are of whole layers."""
    whole, halves = (jobs_of(SPREAD[1], 20, size, start=15) for size in (500, 250))
    assert [job.step for job in halves[:3]] == ["logit_lens", "sweep", "sweep"]
    assert [job.step for job in halves[6:9]] == ["output_score", "perplexity", "perplexity"]
    assert [job.after for job in halves[6:]] == list(range(6))
    fixed = 15 + 4 * GEMMA_2_2B.n_parameters / 2e9
    assert 2 * (halves[1].seconds - fixed) == pytest.approx(whole[1].seconds - fixed)
    assert halves[0] == whole[0]


def test_two_layers_use_more_than_two_gpus_when_they_are_spread() -> None:
    for n in GPUS[2:]:
        whole = simulated_wall(jobs_of(SPREAD[1], 20), 1) / n / simulated_wall(jobs_of(SPREAD[1], 20), n)
        assert efficiency(SPREAD[1], 20, 15, n)[0] > 1.9 * whole
    assert efficiency(SPREAD[1], 20, 15, 16)[0] > 0.9
    assert efficiency(SPREAD[0], 20, 15, 16)[0] > 0.9


@pytest.mark.exhaustive
@pytest.mark.slow
def test_true_shapes_shrunk_tell_the_time_and_memory_of_each_step() -> None:
    printed = run("true_shapes.py", "--layers", 4, "--vocab", 2000, "--width", 64, "--features", 256, "--write", "none")
    assert "Random Gemma-2: 4 layers, width 64, 2,000 tokens" in printed
    assert "12 features, 144 texts of at most 20 tokens" in printed
    for step in ("generations", "perplexity"):
        assert re.search(rf"^\| {step} \| \d+ s \| \d+ s \| \d\.\d GB \| \d+% \|$", printed, re.MULTILINE)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_cluster_page_without_slurm(tmp_path: Path) -> None:
    printed = run("cluster_scaling.py", "--simulate", "--figure", tmp_path / "cluster" / "scaling", "--write", "none")
    assert "Nothing here ran on a GPU" in printed
    assert "not run (--simulate was given)" in printed
    assert (tmp_path / "cluster/scaling.png").is_file()


def test_every_operation_belongs_to_a_part() -> None:
    shape = SMALL
    lm, sae = random_gemma2(shape, ("a text",)), random_sae(shape, 0)
    ids = torch.ones(1, 3, dtype=torch.long)
    profile = profiled(lm, sae, lambda: (lm.model(ids), torch.addmm(sae.b_enc, torch.randn(3, 16), sae.W_enc)))
    assert set(profile.seconds) <= set(PARTS)
    assert profile.seconds[OWN_CODE] >= 0
    assert profile.flops[PARTS[0]] == 3 * shape.head_flops
    assert profile.flops[PARTS[1]] == 3 * 2 * 2 * shape.block_weights
    assert profile.flops[PARTS[4]] == 2 * 3 * 16 * 8


def test_layers_read_ahead_come_in_order_and_the_gpu_table_scales_the_sweep(tmp_path: Path) -> None:
    shape = Shape(n_vocab=100, d_model=16, n_layers=3, n_features=40, n_heads=4, n_kv_heads=2, head_dim=8, d_mlp=40)
    amount = Amount("cpu", "float32", shape, 40, 1, FACTORS, 50, score_batch=64, sweep_batch=64, lens_block=32)
    times = score_layers(random_gemma2(shape, (PROMPT, *PREFIXES.values())), amount, write_saes(amount, tmp_path))
    assert [layer.layer for layer in times] == [0, 1, 2]
    result = Result(1.0, times, 5.0, sweep_seconds=2.0, sweep_tokens=31_200, peak_gib=3.0, device_flops=1e12, busiest={})
    table = "\n".join(gpu_lines(amount, result, 790e12))
    assert "output score of 120 features" in table
    assert "15,600 tokens/s" in table
    assert "31,200,000 tokens, at that rate | **33.3 min** (scaled, not run)" in table
