"""How long `snakemake -n` takes on finished experiments: 26 layers with 2,600 features, and the shipped one; and how long one more feature
takes in the former.

    python benchmarks/bench_dry_run.py

writes its section of benchmarks/RESULTS.md (`--folder DIR` keeps what is made, and uses it the next time). The 26-layer experiment is
really run: a small random model and its SAEs, 100 features a layer, a short sweep. It is computed with all layers in one job a step,
then run again with a layer a job, as real models are: those jobs find every row there and write their manifests.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import snakemake
import torch
import yaml
from measuring import command_line, publish, written_by
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from saesteer.core.markdown import table
from saesteer.settings import load_experiment
from saesteer.sources.features import resolve

ROOT = Path(__file__).parents[1]
WORLD = ROOT / "data/world"
N_LAYERS, N_PER_LAYER, D_MODEL, N_FEATURES = 26, 100, 32, 128
WIDE = "wide"


def write_model(folder: Path) -> None:
    """A random Gemma-2 of 26 narrow layers with the shipped tokenizer."""
    shutil.copytree(WORLD / "model", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    sizes = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "intermediate_size": 2 * D_MODEL, "head_dim": 8}
    config = AutoConfig.from_pretrained(
        WORLD / "model", **sizes, layer_types=["full_attention"] * N_LAYERS, dtype="float32", trust_remote_code=False
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(folder)


def write_sae(folder: Path, layer: int) -> None:
    """A random JumpReLU SAE in sae-lens's form."""
    folder.mkdir(parents=True)
    config = json.loads((WORLD / "saes/layer_00/cfg.json").read_text())
    config["metadata"]["hook_name"] = f"blocks.{layer}.hook_resid_post"
    (folder / "cfg.json").write_text(json.dumps(config | {"d_in": D_MODEL, "d_sae": N_FEATURES}))
    decoder = torch.nn.functional.normalize(torch.randn(N_FEATURES, D_MODEL, generator=torch.Generator().manual_seed(layer)), dim=1)
    weights = {"W_enc": decoder.T.contiguous(), "W_dec": decoder, "b_enc": torch.zeros(N_FEATURES), "b_dec": torch.zeros(D_MODEL)}
    save_file(weights | {"threshold": torch.full((N_FEATURES,), 0.5)}, folder / "sae_weights.safetensors")


def write_experiment(folder: Path, layers_per_job: int) -> None:
    """The experiment file: 26 layers of 100 features; few texts, factors and prefixes."""
    values = {
        "extends": "tiny",
        "description": "26 layers of 100 features on a random model, for measuring dry runs",
        "model": {"path": "wide/model"},
        "saes": {"path": "wide/saes/layer_{layer:02d}", "d_model": D_MODEL, "n_features": N_FEATURES},
        "layers": list(range(N_LAYERS)),
        "features": {"kind": "sampled", "n_per_layer": N_PER_LAYER},
        "max_activating_examples": {"texts": "wide/texts.parquet"},
        "concepts": {"topics": "data/world/topics.json"},  # the random model has the shipped one's tokenizer
        "perplexity": {"model": {"path": "data/world/reference_model"}},
        "judge": {"oracle": "data/world/oracle"},
        "sweep": {"factors": [0, 2], "n_prefixes": 2, "max_new_tokens": 5},
        "selection": {"late_layers_from": 16, "random_draws": 50, "permutations": 50, "bootstrap_draws": 50},
        "layers_per_job": layers_per_job,
    }
    (folder / f"config/experiments/{WIDE}.yaml").write_text(yaml.safe_dump(values))


def make_inputs(folder: Path) -> None:
    """The folder to run in: configuration, the shipped world, and the 26-layer model with its SAEs and texts."""
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "data").mkdir()
    (folder / "data/world").symlink_to(WORLD)
    write_model(folder / "wide/model")
    for layer in range(N_LAYERS):
        write_sae(folder / f"wide/saes/layer_{layer:02d}", layer)
    pl.read_parquet(WORLD / "texts.parquet").head(200).write_parquet(folder / "wide/texts.parquet")


def run_workflow(folder: Path, experiment: str, *arguments: str) -> str:
    """Run Snakemake as a user does; give what it says."""
    command = [Path(sys.executable).with_name("snakemake"), "--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    settings = ["--config", f"experiments=[{experiment}]"]
    done = subprocess.run([*command, *arguments, *settings], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout + done.stderr


def finish(folder: Path) -> None:
    """Bring both experiments to the finished state."""
    if not (folder / "wide").is_dir():
        make_inputs(folder)
        write_experiment(folder, N_LAYERS)
        run_workflow(folder, WIDE)
        write_experiment(folder, 1)
    run_workflow(folder, WIDE)
    run_workflow(folder, "tiny")


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time of a call, and the processor time of the processes that it started: the machine may be shared."""
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def dry_run(folder: Path, experiment: str) -> None:
    """What is measured; refuses to measure anything else than a finished experiment."""
    printed = run_workflow(folder, experiment, "-n")
    if "Nothing to be done" not in printed:
        raise RuntimeError(f"{experiment} is not finished:\n{printed}")


def one_more_feature(folder: Path) -> None:
    """Add a feature to the middle layer of the finished experiment, and run it."""
    path = folder / f"config/experiments/{WIDE}.yaml"
    features = {layer: list(indices) for layer, indices in resolve(load_experiment(WIDE, path.parent)).items()}
    features[N_LAYERS // 2].append(min(set(range(N_FEATURES)) - set(features[N_LAYERS // 2])))
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**values, "features": {"kind": "explicit", "features": features}}))
    run_workflow(folder, WIDE)


def report(folder: Path, repeats: int) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    walls = {}
    labels = {WIDE: f"{N_LAYERS} layers x {N_PER_LAYER} features, a layer a job", "tiny": "the shipped experiment (tiny)"}
    rows = []
    for experiment, label in labels.items():
        times = sorted(seconds(lambda name=experiment: dry_run(folder, name)) for _ in range(repeats))
        processor = statistics.median(used for _, used in times)
        wall = walls[experiment] = statistics.median(passed for passed, _ in times)
        rows.append((label, f"**{wall:.1f} s**", f"{times[0][0]:.1f}–{times[-1][0]:.1f} s", f"{processor:.1f} s"))
    added = sorted(seconds(lambda: one_more_feature(folder)) for _ in range(repeats))
    wall, processor = (statistics.median(column) for column in zip(*added, strict=True))
    return [
        *written_by("Dry runs", "python benchmarks/bench_dry_run.py"),
        "",
        f"Wall time of the whole process, {repeats} repeats, {platform.machine()}, {os.cpu_count()} CPUs,"
        f" Python {platform.python_version()}, snakemake {snakemake.__version__}.",
        "",
        f"In short: `snakemake -n` {walls[WIDE]:.1f} s; one more feature {wall:.0f} s, its rows and every table and figure included.",
        "",
        table(("finished experiment", "`snakemake -n`, median", "range", "processor time, median"), rows),
        "",
        f"One feature added to a layer of the finished {N_LAYERS} layers x {N_PER_LAYER} features, from the command to the last"
        f" figure (its rows of every step, all tables and figures anew): median **{wall:.0f} s**,"
        f" {added[0][0]:.0f}–{added[-1][0]:.0f} s, {processor:.0f} s of processor time.",
    ]


def main() -> None:
    """Make, finish, measure, write."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; kept, and used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary) / "run").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        finish(folder)
        page = report(folder, options.repeats)
    publish(page, options.write)


if __name__ == "__main__":
    main()
