"""Where the main job's time goes, how near each part comes to the machine's peak, and what batch sizes change.

    OMP_NUM_THREADS=1 python benchmarks/where_time_goes.py

writes its section of benchmarks/RESULTS.md. Same model and thread as bench_main_job.py; process times. Every tensor operation is timed and
put into a part by what it reads (the head's, the encoder's or a block's weights) and by where it runs (inside a decoder block or not), so
nothing here depends on how the engine is written.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from measuring import load_note, peak_flops, used
from random_model import MAIN_JOB, PREFIXES, PROMPT, SCORE_FACTOR, SWEEP_FACTOR, Shape, random_gemma2, random_sae
from results_page import PAGE, write_section
from torch.utils._python_dispatch import TorchDispatchMode

from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.logit_lens import lens_tokens
from saesteer.engine.models import LanguageModel
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import Sae

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}
OWN_CODE = "Python, and starting operations"
PARTS = (
    "head: matrix products",
    "blocks: matrix products",
    "blocks: attention, norms, activations",
    "cache of keys and values",
    "SAE encoder (a_max)",
    "statistics, sampling, everything else",
    OWN_CODE,
)


@dataclass
class Profile:
    """Process seconds and operations of a run by part, and what the run took with and without the timers."""

    seconds: Counter[str] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)
    timed: float = 0.0
    plain: float = 0.0


class OperationTimer(TorchDispatchMode):
    """Times every tensor operation that runs within it."""

    def __init__(self, lm: LanguageModel, sae: Sae) -> None:
        super().__init__()
        self.profile, self.in_block = Profile(), 0
        self.n_features = sae.meta.n_features
        self.weights = {weight.untyped_storage().data_ptr(): PARTS[1] for block in lm.blocks for weight in block.parameters()}
        self.weights |= {lm.head.weight.untyped_storage().data_ptr(): PARTS[0], sae.W_enc.untyped_storage().data_ptr(): PARTS[4]}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        started = time.process_time()
        result = func(*args, **(kwargs or {}))
        seconds = time.process_time() - started
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        part = self.part_of(func.overloadpacket, args, tensors)
        self.profile.seconds[part] += seconds
        self.profile.flops[part] += product_flops(func.overloadpacket, tensors)
        return result

    def part_of(self, packet: Any, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> str:
        """The part that an operation belongs to."""
        if packet in PRODUCTS:
            read = [self.weights[place] for tensor in tensors if (place := tensor.untyped_storage().data_ptr()) in self.weights]
            return read[0] if read else PARTS[2]
        if is_cache(packet, args, tensors):
            return PARTS[3]
        if self.in_block:
            return PARTS[2]
        wide = any(tensor.dim() and tensor.shape[-1] == self.n_features for tensor in tensors)
        return PARTS[4] if wide else PARTS[5]

    @contextmanager
    def watching(self, lm: LanguageModel) -> Iterator[None]:
        """Within the context, it is known whether an operation runs inside a decoder block."""

        def step(change: int) -> Callable[..., None]:
            def hook(*_: Any) -> None:
                self.in_block += change

            return hook

        with ExitStack() as hooks:
            for block in lm.blocks:
                hooks.callback(block.register_forward_pre_hook(step(1)).remove)
                hooks.callback(block.register_forward_hook(step(-1)).remove)
            with self:
                yield


def is_cache(packet: Any, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> bool:
    """Whether an operation moves keys and values [row head position width]: joined along positions, written in place, chosen by row."""
    if packet is torch.ops.aten.cat:
        return args[0][0].dim() == 4 and len(args) > 1 and args[1] in (2, -2, 0)
    moves = packet in (torch.ops.aten.copy_, torch.ops.aten.index, torch.ops.aten.index_select, torch.ops.aten.index_copy_)
    return moves and tensors[0].dim() == 4


def product_flops(packet: Any, tensors: list[torch.Tensor]) -> float:
    """Multiplications and additions of a matrix product."""
    if packet not in PRODUCTS:
        return 0.0
    left, right = tensors[-2:]
    return 2.0 * left.numel() * right.shape[-1]


def profiled(lm: LanguageModel, sae: Sae, work: Callable[[], Any]) -> Profile:
    """Run once to warm up, once plainly, once with the timers."""
    work()
    plain = used(work).process
    timer = OperationTimer(lm, sae)
    with timer.watching(lm):
        timed = used(work).process
    profile = timer.profile
    profile.plain, profile.timed = plain, timed
    profile.seconds[OWN_CODE] = max(0.0, plain - sum(profile.seconds.values()))
    return profile


def sweep(lm: LanguageModel, sae: Sae, n_features: int, texts: Sequence[str], n_tokens: int, batch: int) -> int:
    """One text per feature and prefix; how many tokens came out."""
    prefixes = {f"{number:016x}": prefix for number, prefix in enumerate(texts)}
    rows = [(feature, SWEEP_FACTOR, name, 0) for feature in range(n_features) for name in prefixes]
    schema = {"feature": pl.UInt32, "factor": pl.String, "prefix_id": pl.String, "sample": pl.UInt32}
    table, sampling = pl.DataFrame(rows, schema=schema, orient="row"), Sampling(max_new_tokens=n_tokens)
    return sum(int(part["n_tokens"].sum()) for part in feature_texts(lm, sae, sae.meta.layer, table, prefixes, sampling, 0, batch))


def scores(lm: LanguageModel, sae: Sae, lens: torch.Tensor, batch: int) -> int:
    """How many features were scored."""
    return len(output_scores(lm, sae, sae.meta.layer, range(len(lens)), lens, PROMPT, SCORE_FACTOR, batch))


def product_share(profile: Profile) -> float:
    """Of the time, what goes into the head's and the blocks' matrix products."""
    return sum(profile.seconds[part] for part in PARTS[:2]) / sum(profile.seconds.values())


def profile_lines(profile: Profile, peak: float) -> list[str]:
    """A markdown table of one run."""
    lines = ["| part | share of the time | rate of its matrix products | share of the peak |", "|---|---|---|---|"]
    for part in sorted(profile.seconds, key=lambda part: -profile.seconds[part]):
        seconds, flops = profile.seconds[part], profile.flops[part]
        rate = f"{flops / seconds / 1e9:.0f} GFLOP/s | {flops / seconds / peak:.0%}" if flops > 0.1 * seconds * peak else " | "
        lines.append(f"| {part} | {seconds / sum(profile.seconds.values()):.1%} | {rate} |")
    return [*lines, "", f"The run took {profile.plain:.2f} s of process time, {profile.timed:.2f} s with the timers."]


def batch_lines(unit: str, work: Callable[[int], int], flops: float, batches: Sequence[int], peak: float) -> list[str]:
    """A markdown table: rate and share of the peak by batch."""
    lines = [f"| batch | {unit}/s | share of the peak |", "|---|---|---|"]
    for batch in batches:
        runs = [used(partial(work, batch)) for _ in range(3)]
        rate = sorted(run.result / run.process for run in runs)[1]
        lines.append(f"| {batch:,} | {rate:,.0f} | {rate * flops / peak:.0%} |")
    return lines


def shape_lines(shape: Shape, rows: int, peak: float) -> list[str]:
    """What single matrix products of the main job's shapes reach on this machine, without anything around them."""
    inner = {"head, 2,048 tokens at a time": (shape.d_model, 2048), "head, whole": (shape.d_model, shape.n_vocab)}
    inner |= {"MLP, up": (shape.d_model, shape.d_mlp), "MLP, down": (shape.d_mlp, shape.d_model)}
    lines = ["| product of 512 rows with | GFLOP/s | share of the peak |", "|---|---|---|"]
    for name, (k, n) in inner.items():
        left, right = torch.randn(rows, k), torch.randn(n, k)
        rate = 2 * rows * k * n / min(used(lambda left=left, right=right: left @ right.T).process for _ in range(5))
        lines.append(f"| {name} ({k:,} x {n:,}) | {rate / 1e9:.0f} | {rate / peak:.0%} |")
    return lines


def report(shape: Shape, layer: int, n_scores: int, n_sweep: int, batches: Sequence[int]) -> str:
    """The section of benchmarks/RESULTS.md."""
    lm, sae = random_gemma2(shape, (PROMPT, *PREFIXES)), random_sae(shape, layer)
    peak = peak_flops()
    lens = used(lambda: lens_tokens(lm, sae.W_dec[:n_scores], 20))
    score_profile = profiled(lm, sae, lambda: scores(lm, sae, lens.result[0], 512))
    sweep_profile = profiled(lm, sae, lambda: sweep(lm, sae, n_sweep, PREFIXES, 20, 512))
    score_flops, n_tokens = shape.feature_flops(layer), sweep(lm, sae, n_sweep, PREFIXES, 20, 512)
    shares = {
        "output score": n_scores * score_flops / score_profile.plain,
        "lens tokens (a step of its own)": n_scores * shape.head_flops / lens.process,
        "sweep": n_tokens * shape.token_flops / sweep_profile.plain,
    }
    counted = {"output score": score_flops, "lens tokens (a step of its own)": shape.head_flops, "sweep": shape.token_flops}
    lines = ["| | MFLOP counted, a feature or token | GFLOP/s | share of the peak |", "|---|---|---|---|"]
    lines += [f"| {name} | {counted[name] / 1e6:.0f} | {rate / 1e9:.0f} | **{rate / peak:.0%}** |" for name, rate in shares.items()]
    by_batch = partial(batch_lines, batches=batches, peak=peak)
    short_sweep = partial(sweep, lm, sae, max(batches), PREFIXES[:1], 3)  # one length of prefix, so that a batch can be full
    parts = {
        "Output score": profile_lines(score_profile, peak),
        "Sweep": profile_lines(sweep_profile, peak),
        "Single products": shape_lines(shape, 512, peak),
        "Tried: rows at a time, output score": by_batch("features", partial(scores, lm, sae, lens.result[0]), score_flops),
        "Tried: rows at a time, sweep of three tokens a text": by_batch("tokens", short_sweep, shape.token_flops),
    }
    head = [
        "# Where the time goes",
        "",
        "Written by `OMP_NUM_THREADS=1 python benchmarks/where_time_goes.py`; the numbers are measured, not typed.",
        "",
        f"Model, SAE and thread as above: {n_scores:,} features for the output score, {n_tokens:,} tokens for the sweep. Process times;"
        f" {load_note()}.",
        f"Peak: one product of two 2,048 x 2,048 float32 matrices, {peak / 1e9:.0f} GFLOP/s. Counted: matrix products of the blocks after",
        "the steered one and of the head; of the sweep all blocks, the head and the encoder. Attention's own are left out (below 1 %).",
        "",
        f"In short: the head's and blocks' matrix products take {product_share(score_profile):.0%} of the output score's time and"
        f" {product_share(sweep_profile):.0%} of the sweep's; the rest is the pass over the vocabulary, norms and activations.",
        "",
        *lines,
    ]
    return "\n".join(head + [line for title, table in parts.items() for line in ("", f"**{title}**", "", *table)])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", default=str(PAGE), help="page whose section is replaced; none: printed only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    page = report(MAIN_JOB, 5, 1024, 64, (32, 128, 512, 1024))
    print(page)
    if options.write != "none":
        write_section(Path(options.write), page)


if __name__ == "__main__":
    main()
