"""The whole workflow on a model of Gemma-2-2B's true shapes with random weights, on a processor: seconds, memory, share of its peak.

    python benchmarks/true_shapes.py                                               # 16 GB of memory and 12 GB of disk, about 20 minutes
    python benchmarks/true_shapes.py --layers 4 --vocab 2000 --width 64 --features 256 --write none

Model, SAEs at two layers and texts are made in a temporary folder; `snakemake` runs there as for a user's own experiment: 12 features, 144
texts, which the same model scores. Seconds and memory of each step are Snakemake's own; the share of the peak is the operations of the
step's rows over its CPU seconds (its start and imports among them) times what one core reaches in a large matrix product.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml
from measuring import command_line, load_note, peak_flops, publish, written_by
from random_model import GEMMA_2_2B, Shape, random_gemma2, random_sae_tensors

from saesteer.core.markdown import table
from saesteer.workflow.this_machine import Amounts, operations

ROOT = Path(__file__).parents[1]
NAME = "true-shapes"
N_LAYERS, PER_LAYER, FACTORS, N_PREFIXES, N_NEW = 2, 6, (0, 1, 4), 4, 20
N_TEXTS, TEXT_TOKENS = 64, 48
STEPS = {"activations": "activations", "output_score": "scores", "generations": "writing texts", "perplexity": "their losses"}
"""Steps whose rate is told -> what `saesteer check` calls their work."""


def texts() -> list[str]:
    """Texts of made-up words, no two alike."""
    return [" ".join(f"w{50 + (number * 7 + place * (number + 3)) % 200}" for place in range(TEXT_TOKENS)) for number in range(N_TEXTS)]


def write_inputs(folder: Path, shape: Shape) -> list[int]:
    """Model, SAEs, texts, prefixes and the experiment; gives the layers."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    layers = sorted({shape.n_layers // 2 - 1, shape.n_layers // 2})
    lm = random_gemma2(shape, ())
    for part in (lm.model, lm.tokenizer):
        part.save_pretrained(folder / "model")
    del lm
    for layer in layers:
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=shape.d_model, d_sae=shape.n_features))
        sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
        with torch.no_grad():
            for name, values in random_sae_tensors(shape, layer).items():
                getattr(sae, name).copy_(values)
        sae.save_model(folder / f"saes/layer_{layer}")
    pl.DataFrame({"text": texts()}).write_parquet(folder / "texts.parquet")
    experiments = folder / "config/experiments"
    experiments.mkdir(parents=True)
    (folder / "config/prefixes.txt").write_text("".join(f"{' '.join(text.split()[:5])}\n" for text in texts()[:N_PREFIXES]))
    (folder / "config/config.yaml").write_text(yaml.safe_dump({"experiments": [NAME]}))
    (experiments / f"{NAME}.yaml").write_text(yaml.safe_dump(experiment(shape, layers)))
    return layers


def experiment(shape: Shape, layers: Sequence[int]) -> dict[str, Any]:
    """The experiment file."""
    return {
        "description": "A random model of true shapes",
        "kind": "sweep",
        "model": {"path": "model"},
        "saes": {"path": "saes/layer_{layer}", "d_model": shape.d_model, "n_features": shape.n_features},
        "layers": list(layers),
        "features": {"kind": "sampled", "n_per_layer": PER_LAYER, "seed": 0},
        "max_activating_examples": {"kind": "local", "texts": "texts.parquet"},
        "input_score": {"tokens": "ids"},
        "gen_success": {"tokens": "ids"},
        "sweep": {"factors": list(FACTORS), "prefixes": "config/prefixes.txt", "n_prefixes": N_PREFIXES, "max_new_tokens": N_NEW},
        "perplexity": {"model": {"path": "model"}},
        "selection": {"thresholds": [0.1], "late_layers_from": layers[-1], "random_draws": 50, "permutations": 50},
        "judge": {"kind": "none"},
        "layers_per_job": len(layers),
    }


def run_workflow(folder: Path, cores: int) -> pl.DataFrame:
    """step, wall, cpu (seconds) and rss (MB) of every step, those that took most first; its jobs' seconds are summed."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(folder), "--cores", str(cores)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the workflow failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    rows = []
    for file in sorted((folder / "logs" / NAME).glob("*/*.tsv")):
        (measured,) = pl.read_csv(file, separator="\t", null_values=["-", "NA"], infer_schema_length=0).to_dicts()
        wall, cpu, rss = (float(measured[name] or 0) for name in ("s", "cpu_time", "max_rss"))
        rows.append({"step": file.parent.name, "wall": wall, "cpu": cpu, "rss": rss})
    by_step = pl.DataFrame(rows).group_by("step").agg(pl.col("wall", "cpu").sum(), pl.col("rss").max())
    return by_step.sort("cpu", descending=True)


def amounts_of(shape: Shape, layers: Sequence[int]) -> Amounts:
    """How much of everything there is."""
    n_features = PER_LAYER * len(layers)
    return Amounts(
        model=float(shape.n_parameters),
        scorer=float(shape.n_parameters),
        sae=2.0 * shape.d_model * shape.n_features,
        n_layers=len(layers),
        n_features=n_features,
        n_texts=n_features * len(FACTORS) * N_PREFIXES,
        n_new=N_NEW,
        corpus_tokens=N_TEXTS * (TEXT_TOKENS + 1),
    )


def report(jobs: pl.DataFrame, amounts: Amounts, peak: float, shape: Shape, cores: int, command: str) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    work, rows = operations(amounts), []
    for row in jobs.filter(pl.col("cpu") >= 0.02 * pl.col("cpu").sum()).iter_rows(named=True):
        part = STEPS.get(row["step"])
        share = f"{work[part] / (row['cpu'] * peak):.0%}" if part else ""
        rows.append((row["step"], f"{row['wall']:.0f} s", f"{row['cpu']:.0f} s", f"{row['rss'] / 1000:.1f} GB", share))
    (sweep,) = jobs.filter(step="generations").to_dicts()
    minutes, most = float(pl.Series(jobs["wall"]).sum()) / 60, max(jobs["rss"].to_list()) / 1000
    rate, share = amounts.n_texts * N_NEW / sweep["wall"], work["writing texts"] / (sweep["cpu"] * peak)
    summary = f"{minutes:.1f} minutes of jobs, {most:.1f} GB at most in one; texts at {rate:.1f} tokens/s, {share:.0%} of the peak"
    return [
        *written_by("True shapes on a processor", command),
        "",
        f"Random Gemma-2: {shape.n_layers} layers, width {shape.d_model:,}, {shape.n_vocab:,} tokens, float32; SAEs of {shape.n_features:,}"
        f" features at {amounts.n_layers} layers;",
        f"{amounts.n_features} features, {amounts.n_texts} texts of at most {N_NEW} tokens. {cores} cores, {peak / 1e9:.0f} GFLOP/s each;"
        f" {load_note()}.",
        "",
        f"In short: {summary}.",
        "",
        table(("step", "wall time", "CPU time", "memory", "share of the peak"), rows),
        "",
        "Steps below a fiftieth of the CPU time are left out.",
    ]


def main() -> None:
    """Make, run, write."""
    parser, of = command_line(__doc__), GEMMA_2_2B
    parser.add_argument("--layers", type=int, default=of.n_layers)
    parser.add_argument("--vocab", type=int, default=of.n_vocab)
    parser.add_argument("--width", type=int, default=of.d_model, help="of the residual; the MLP is four times as wide")
    parser.add_argument("--features", type=int, default=of.n_features, help="of an SAE")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    head_dim = of.head_dim * options.width // of.d_model // 2 * 2
    sizes = (options.vocab, options.width, options.layers, options.features, of.n_heads, of.n_kv_heads, head_dim, 4 * options.width)
    with tempfile.TemporaryDirectory() as name:
        layers = write_inputs(Path(name), shape := Shape(*sizes))
        jobs = run_workflow(Path(name), options.cores)
    changed = [key for key in ("layers", "vocab", "width", "features") if getattr(options, key) != parser.get_default(key)]
    given = [f"--{key} {getattr(options, key)}" for key in changed]
    command = " ".join(["python benchmarks/true_shapes.py", *given])
    publish(report(jobs, amounts_of(shape, layers), peak_flops(), shape, options.cores, command), options.write)


if __name__ == "__main__":
    main()
