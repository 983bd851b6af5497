"""The main job at Gemma-2-2B's real shapes with random weights: 26 layers, width 2,304, 256,000 tokens, 16,384 features a layer.

    python benchmarks/gemma_2_2b.py --random-weights                          # on a GPU: TF32, up to 60 GiB
    python benchmarks/gemma_2_2b.py --random-weights --dtype bfloat16 --max-memory-gib 24
    OMP_NUM_THREADS=1 python benchmarks/gemma_2_2b.py --random-weights        # without one: a slice, and what it extrapolates to

Nothing is downloaded: the weights are made on the device in the number format asked for; SAEs are written to a temporary folder in plain
form and read from there (on a GPU one layer ahead of the compute), after the system was asked to forget them. Measured: top logit-lens
tokens and output score of every feature of every layer; and a slice of the paper's sweep (2,600 features x 12 factors x 50 prefixes x 20
tokens), scaled by its number of tokens. Compute is what the device needs once everything is loaded (wall time with the queue emptied on a
GPU, process time on a CPU); wall time has loading in it. `--layers`, `--vocab`, `--features` and `--width` make it smaller.

`--peak-tflops` is what the share of the hardware is taken of: 790 is what a large bfloat16 product reaches on an H200 (dense).
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import cpu_slice
import numpy as np
import torch
from measuring import Used, command_line, load_note, peak_flops, publish, used, written_by
from random_model import GEMMA_2_2B, PROMPT, SCORE_FACTOR, Shape, by_id, random_gemma2, swept, write_sae

from saesteer.core.markdown import table
from saesteer.engine.continuation import Sampling
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import Sae, load_sae

N_LENS = 20
PAPER_FEATURES, FACTORS, N_PREFIXES, N_TOKENS = 2600, (0.2, 0.4, 0.8, 1.2, 1.6, 2, 3, 4, 6, 8, 10, 20), 50, 20
PREFIXES = by_id([" ".join(f"w{50 + number * 5 + place}" for place in range(5)) for number in range(N_PREFIXES)])
"""Made-up words, five a prefix: rows of one length, as full batches of a real run are."""
GIB = 2**30
Cells = tuple[str, ...]
TITLE = "Gemma-2-2B's shapes"
COMMAND = "python benchmarks/gemma_2_2b.py --random-weights"
MEMORY_GIB = 60.0


@dataclass(frozen=True)
class Amount:
    """What is measured, and how."""

    device: str
    dtype: str  # of the weights, a torch name
    shape: Shape
    n_scores: int  # features a layer
    n_sweep: int  # features of the sweep's slice
    factors: tuple[float, ...]
    n_prefixes: int
    score_batch: int
    sweep_batch: int
    lens_block: int

    @property
    def n_rows(self) -> int:
        """Texts of the sweep's slice."""
        return self.n_sweep * len(self.factors) * self.n_prefixes


@dataclass(frozen=True)
class LayerTimes:
    """Seconds of a layer: reading its SAE (beside the compute), top logit-lens tokens, output scores."""

    layer: int
    load: float
    lens: float
    score: float


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    model_seconds: float
    layers: list[LayerTimes]
    wall: float  # of all layers' scores, SAEs read in it
    sweep_seconds: float
    sweep_tokens: int
    peak_gib: float
    device_flops: float  # of one large product in the same number format
    busiest: dict[str, list[Cells]]  # rows of a table of operations, of one batch of each kind


def seconds(took: Used, device: str) -> float:
    """Compute time: a CPU may be shared, a GPU is waited for."""
    return took.process if device == "cpu" else took.wall


def rows_that_fit(shape: Shape, dtype: str, gib: float) -> int:
    """Rows of a sweep's batch, a power of two: some six copies of the logits in float32, the cache twice, beside the weights."""
    width = torch.finfo(getattr(torch, dtype)).bits // 8
    cache = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * width * (N_TOKENS + 8)
    a_row = 6 * 4 * shape.n_vocab + 2 * cache
    weights = width * (shape.n_parameters + 3 * 2 * shape.n_features * shape.d_model)
    free = gib * GIB - weights
    if free < 32 * a_row:
        raise SystemExit(f"{gib:g} GiB are too few: the weights take {weights / GIB:.1f} GiB, 32 rows {32 * a_row / GIB:.1f}")
    return 2 ** min(12, int(np.log2(free / a_row)))


def forget(path: Path) -> None:
    """Ask the system to drop a file's pages, so that reading it means reading the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_saes(amount: Amount, folder: Path) -> list[Path]:
    """An SAE file a layer."""
    paths = [folder / f"layer_{layer:02d}.safetensors" for layer in range(amount.shape.n_layers)]
    for layer, path in enumerate(paths):
        write_sae(amount.shape, layer, path, amount.device)
        forget(path)
    return paths


def slice_of_it(amount: Amount, folder: Path) -> tuple[list[str], dict[str, list[Cells]]]:
    """Without a GPU: what a row costs on one thread of a CPU, and what that extrapolates to."""
    lm = random_gemma2(amount.shape, (PROMPT, *PREFIXES.values()))
    write_sae(amount.shape, 0, folder / "sae.safetensors")
    forget(folder / "sae.safetensors")
    loaded = used(lambda: load_sae(folder / "sae.safetensors", amount.dtype, "cpu"))
    sae, n_scores = loaded.result, 4 * amount.n_scores
    lens = used(lambda: top_logit_lens_tokens(lm, sae.W_dec[:n_scores], N_LENS, amount.lens_block)[0])

    def score(n: int) -> object:
        return output_scores(lm, sae, 0, range(n), lens.result[:n], PROMPT, SCORE_FACTOR, amount.score_batch)

    rates = cpu_slice.Rates(
        lens=lens.process / n_scores,
        score=cpu_slice.marginal(lm, score, (amount.n_scores, n_scores), 1, amount.shape.n_layers - 1),
        sweep=cpu_slice.marginal(lm, partial(sweep, lm, amount, sae), (N_TOKENS // 4, N_TOKENS), amount.n_rows, amount.shape.n_layers),
        load_wall=loaded.wall,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        device_flops=peak_flops(),
    )
    amounts = f"{n_scores} features at layer 0, {amount.n_rows} texts of {N_TOKENS} tokens"
    return cpu_slice.lines(amount.shape, rates, amounts, paper_tokens(), COMMAND), busiest_operations(lm, amount, sae)


def score_layers(lm: LanguageModel, amount: Amount, paths: list[Path]) -> list[LayerTimes]:
    """Top logit-lens tokens and output scores layer by layer; the next SAE is read meanwhile."""

    def read(path: Path) -> Used:
        return used(lambda: load_sae(path, amount.dtype, amount.device))

    times = []
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, paths[0])
        for layer, following in enumerate([*paths[1:], None]):
            loaded = ahead.result()
            if following:
                ahead = reader.submit(read, following)
            times.append(score_layer(lm, amount, layer, loaded))
    return times


def score_layer(lm: LanguageModel, amount: Amount, layer: int, loaded: Used) -> LayerTimes:
    """One layer's features."""
    sae, features = loaded.result, range(amount.n_scores)
    lens = used(lambda: top_logit_lens_tokens(lm, sae.W_dec[: amount.n_scores], N_LENS, amount.lens_block)[0], amount.device)
    work = used(
        lambda: output_scores(lm, sae, layer, features, lens.result, PROMPT, SCORE_FACTOR, amount.score_batch),
        amount.device,
    )
    return LayerTimes(layer, loaded.wall, seconds(lens, amount.device), seconds(work, amount.device))


def sweep(lm: LanguageModel, amount: Amount, sae: Sae, n_tokens: int = N_TOKENS) -> int:
    """The slice of the paper's sweep; how many tokens came out."""
    prefixes = dict(islice(PREFIXES.items(), amount.n_prefixes))
    factors, sampling = [f"{factor:g}" for factor in amount.factors], Sampling(max_new_tokens=n_tokens)
    # A random model hardly ever ends a text, so every text has all its tokens.
    return int(swept(lm, sae, amount.n_sweep, prefixes, sampling, factors, amount.sweep_batch)["n_tokens"].sum())


def measured(amount: Amount, folder: Path) -> Result:
    """Make everything, warm up, measure."""
    model = used(lambda: random_gemma2(amount.shape, (PROMPT, *PREFIXES.values()), amount.device, amount.dtype), amount.device)
    torch.cuda.reset_peak_memory_stats()  # transformers makes the tied head twice
    lm, paths = model.result, write_saes(amount, folder)
    small = replace(amount, n_scores=min(amount.n_scores, 64))
    score_layer(lm, small, 0, used(lambda: load_sae(paths[0], amount.dtype, amount.device)))
    forget(paths[0])
    scores = used(lambda: score_layers(lm, amount, paths), amount.device)
    sae = load_sae(paths[amount.shape.n_layers // 2], amount.dtype, amount.device)
    sweep(lm, replace(amount, n_sweep=1), sae)
    texts = used(lambda: sweep(lm, amount, sae), amount.device)
    return Result(
        model_seconds=model.wall,
        layers=scores.result,
        wall=scores.wall,
        sweep_seconds=seconds(texts, amount.device),
        sweep_tokens=texts.result,
        peak_gib=torch.cuda.max_memory_allocated() / GIB,
        device_flops=peak_flops(amount.device, amount.dtype, 8192, 10),
        busiest=busiest_operations(lm, amount, sae),
    )


def busiest_operations(lm: LanguageModel, amount: Amount, sae: Sae) -> dict[str, list[Cells]]:
    """One batch of each kind of work under torch's profiler: what bounds it."""
    n_scores = min(amount.n_scores, amount.score_batch)
    lens = top_logit_lens_tokens(lm, sae.W_dec[:n_scores], N_LENS, amount.lens_block)[0]
    layer, batch = sae.meta.layer, amount.score_batch
    one_batch = replace(amount, n_sweep=max(1, amount.sweep_batch // (len(amount.factors) * amount.n_prefixes)))
    return {
        "top logit-lens tokens": busiest(
            lambda: top_logit_lens_tokens(lm, sae.W_dec[: amount.lens_block], N_LENS, amount.lens_block), amount.device
        ),
        "output score": busiest(
            lambda: output_scores(lm, sae, layer, range(n_scores), lens, PROMPT, SCORE_FACTOR, batch),
            amount.device,
        ),
        "sweep": busiest(lambda: sweep(lm, one_batch, sae), amount.device),
    }


def busiest(work: Callable[[], object], device: str) -> list[Cells]:
    """The five operations that take most of the device's time, and on a GPU how long it had nothing to do."""
    kinds = [torch.profiler.ProfilerActivity.CPU] + ([] if device == "cpu" else [torch.profiler.ProfilerActivity.CUDA])
    field = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    with torch.profiler.profile(activities=kinds) as profiler:
        took = used(work, device)
    where = torch.autograd.DeviceType.CPU if device == "cpu" else torch.autograd.DeviceType.CUDA  # not a kernel and its caller twice
    events = [event for event in profiler.key_averages() if event.device_type == where]
    times = sorted(((getattr(event, field), event.key, event.count) for event in events), reverse=True)
    total = sum(time for time, _, _ in times)
    idle = [] if device == "cpu" else [("nothing to do", f"{max(0.0, 1 - total / 1e6 / took.wall):.0%} of the wall time", "")]
    return [(f"`{key[:70]}`", f"{time / total:.0%}", f"{count:,}") for time, key, count in times[:5]] + idle


def score_flops(shape: Shape, n_features: int) -> float:
    """Of output scores and top logit-lens tokens of `n_features` at every layer."""
    return n_features * sum(shape.feature_flops(layer) + shape.head_flops for layer in range(shape.n_layers))


def paper_tokens() -> int:
    """Of the paper's sweep."""
    return PAPER_FEATURES * len(FACTORS) * N_PREFIXES * N_TOKENS


def gpu_lines(amount: Amount, result: Result, peak: float) -> list[str]:
    """Measured numbers, and shares of the hardware."""
    shape, n_all = amount.shape, amount.n_scores * amount.shape.n_layers
    lens, score, load = (sum(getattr(layer, name) for layer in result.layers) for name in ("lens", "score", "load"))
    rate = score_flops(shape, amount.n_scores) / (score + lens)
    tokens = result.sweep_tokens / result.sweep_seconds
    minutes = paper_tokens() / tokens / 60
    rows = {
        f"output score of {n_all:,} features, compute": f"**{score + lens:.1f} s** (logit lens {lens:.1f}, output score {score:.1f})",
        f"the same, wall time with reading {shape.n_layers} SAEs": f"**{result.wall:.1f} s** (reading {load:.1f}, beside the compute)",
        "making the model, in place of loading it": f"{result.model_seconds:.1f} s",
        "FLOP/s of top logit-lens tokens and output score": f"{rate / 1e12:.0f} TFLOP/s: {share_of(rate, peak, result.device_flops)}",
        f"sweep, a slice of {result.sweep_tokens:,} tokens": f"{tokens:,.0f} tokens/s",
        "FLOP/s of the sweep": f"{tokens * shape.token_flops / 1e12:.0f} TFLOP/s:"
        f" {share_of(tokens * shape.token_flops, peak, result.device_flops)}",
        f"the paper's sweep, {paper_tokens():,} tokens, at that rate": f"**{minutes:.1f} min** (scaled, not run)",
        "peak memory of the device": f"**{result.peak_gib:.1f} GiB**",
    }
    short = f"In short: {n_all:,} features' output score in {score + lens:.0f} s of compute, {result.wall:.0f} s with reading; the"
    short += f" paper's sweep in {minutes:.0f} min (scaled); {result.peak_gib:.0f} GiB at most."
    return [short, "", table(("", "measured"), rows.items())]


def share_of(rate: float, peak: float, device_flops: float) -> str:
    """Of the number given, and of what a large product reaches here."""
    return f"{rate / peak:.0%} of {peak / 1e12:g}, {rate / device_flops:.0%} of a large product here ({device_flops / 1e12:.1f})"


def report(amount: Amount, body: list[str], busy: dict[str, list[Cells]], title: str) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    on_cpu = amount.device == "cpu"
    *title_lines, written = written_by(title, f"{'OMP_NUM_THREADS=1 ' if on_cpu else ''}{this_command()}")
    operations = [row for kind, rows in busy.items() for row in ((f"**{kind}**", "", ""), *rows)]
    return [
        *title_lines,
        f"{written} {load_note() if on_cpu else torch.cuda.get_device_name()}, torch {torch.__version__}, random weights in {amount.dtype};"
        f" {amount.score_batch:,} (output score), {amount.lens_block:,} (lens) and {amount.sweep_batch:,} (sweep) rows at a time.",
        "",
        *body,
        "",
        "Busiest operations of one batch, as torch's profiler sees them:",
        "",
        table(("operation", "share of the time", "calls"), operations),
    ]


def this_command() -> str:
    """The command line of this run."""
    words = [word for place, word in enumerate(sys.argv[1:]) if "--write" not in (word, sys.argv[place])]
    return f"python benchmarks/{Path(__file__).name} {shlex.join(words)}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    parser.add_argument("--random-weights", action="store_true", required=True, help="the only kind: real weights run in the workflow")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "tf32", "bfloat16"), help="default: tf32 on a GPU, float32 on a CPU")
    parser.add_argument("--max-memory-gib", type=float, default=MEMORY_GIB, help="of the device; rows at a time are chosen to fit")
    parser.add_argument(
        "--peak-tflops", type=float, default=cpu_slice.H200 / 1e12, help="what the shares are of; 790: H200, bfloat16, dense"
    )
    parser.add_argument("--layers", type=int, help="default: 26 on a GPU, 2 on a CPU")
    parser.add_argument("--vocab", type=int, default=GEMMA_2_2B.n_vocab)
    parser.add_argument("--features", type=int, default=GEMMA_2_2B.n_features, help="of an SAE")
    parser.add_argument("--width", type=int, default=GEMMA_2_2B.d_model)
    parser.add_argument(
        "--score-features", type=int, help="scored a layer; default: all on a GPU, 64 on a CPU, where four times as many are scored as well"
    )
    parser.add_argument("--sweep-features", type=int, help="of the sweep's slice; default: 64 on a GPU, 1 on a CPU")
    return parser.parse_args()


def amount_of(options: argparse.Namespace) -> Amount:
    """What the command line and the device ask for."""
    on_cpu = options.device == "cpu"
    dtype = "bfloat16" if options.dtype == "bfloat16" else "float32"
    shape = replace(GEMMA_2_2B, n_vocab=options.vocab, d_model=options.width, d_mlp=4 * options.width, n_features=options.features)
    shape = replace(shape, n_layers=options.layers or (2 if on_cpu else GEMMA_2_2B.n_layers))
    n_scores = options.score_features or (min(64, options.features // 4) if on_cpu else options.features)
    fitting = 32 if on_cpu else rows_that_fit(shape, dtype, options.max_memory_gib)
    return Amount(
        device=options.device,
        dtype=dtype,
        shape=shape,
        n_scores=n_scores,
        n_sweep=options.sweep_features or (1 if on_cpu else 64),
        factors=FACTORS[:4] if on_cpu else FACTORS,
        n_prefixes=8 if on_cpu else N_PREFIXES,
        score_batch=64 if on_cpu else min(4096, 4 * fitting),
        sweep_batch=fitting,
        lens_block=64 if on_cpu else min(1024, fitting),
    )


def set_up(options: argparse.Namespace) -> None:
    """Number format of float32 products, and the memory limit, which a GPU's allocator then keeps to."""
    if options.device == "cpu":
        torch.set_num_threads(1)
        return
    torch.set_float32_matmul_precision("highest" if options.dtype == "float32" else "high")
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, options.max_memory_gib / total))


def main() -> None:
    """Measure and write."""
    options = parsed()
    set_up(options)
    amount = amount_of(options)
    plain = options.dtype in (None, "tf32") and options.max_memory_gib == MEMORY_GIB
    title = TITLE if plain or amount.device == "cpu" else f"{TITLE}, {options.dtype or 'tf32'}, at most {options.max_memory_gib:g} GiB"
    with tempfile.TemporaryDirectory() as folder:
        if amount.device == "cpu":
            page = report(amount, *slice_of_it(amount, Path(folder)), title)
        else:
            result = measured(amount, Path(folder))
            page = report(amount, gpu_lines(amount, result, options.peak_tflops * 1e12), result.busiest, title)
    publish(page, options.write)


if __name__ == "__main__":
    main()
