"""Where the main job's time goes, how near each part comes to the machine's peak, and what batch sizes change.

    OMP_NUM_THREADS=1 python benchmarks/where_time_goes.py

writes its section of benchmarks/RESULTS.md. Same model and thread as bench_main_job.py; process times. Every tensor operation is timed and
put into a part by what it reads (the head's, the encoder's or a block's weights) and by where it runs (inside a decoder block or not), so
nothing here depends on how the engine is written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from measuring import command_line, load_note, peak_flops, publish, used, written_by
from random_model import MAIN_JOB, PREFIXES, PROMPT, SCORE_FACTOR, Shape, by_id, random_gemma2, random_sae, swept
from torch.utils._python_dispatch import TorchDispatchMode

from saesteer.core.markdown import table
from saesteer.engine.continuation import Sampling
from saesteer.engine.logit_lens import top_logit_lens_tokens
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
    return int(swept(lm, sae, n_features, by_id(texts), Sampling(max_new_tokens=n_tokens), batch=batch)["n_tokens"].sum())


def scores(lm: LanguageModel, sae: Sae, lens: torch.Tensor, batch: int) -> int:
    """How many features were scored."""
    return len(output_scores(lm, sae, sae.meta.layer, range(len(lens)), lens, PROMPT, SCORE_FACTOR, batch))


def product_share(profile: Profile) -> float:
    """Of the time, what goes into the head's and the blocks' matrix products."""
    return sum(profile.seconds[part] for part in PARTS[:2]) / sum(profile.seconds.values())


def profile_lines(profile: Profile, peak: float) -> list[str]:
    """A markdown table of one run."""
    rows = []
    for part in sorted(profile.seconds, key=lambda part: -profile.seconds[part]):
        seconds, flops = profile.seconds[part], profile.flops[part]
        rate = (f"{flops / seconds / 1e9:.0f} GFLOP/s", f"{flops / seconds / peak:.0%}") if flops > 0.1 * seconds * peak else ("", "")
        rows.append((part, f"{seconds / sum(profile.seconds.values()):.1%}", *rate))
    shares = table(("part", "share of the time", "rate of its matrix products", "share of the peak"), rows)
    return [shares, "", f"The run took {profile.plain:.2f} s of process time, {profile.timed:.2f} s with the timers."]


def batch_lines(unit: str, work: Callable[[int], int], flops: float, batches: Sequence[int], peak: float) -> list[str]:
    """A markdown table: rate and share of the peak by batch."""
    rows = []
    for batch in batches:
        runs = [used(partial(work, batch)) for _ in range(3)]
        rate = sorted(run.result / run.process for run in runs)[1]
        rows.append((f"{batch:,}", f"{rate:,.0f}", f"{rate * flops / peak:.0%}"))
    return [table(("batch", f"{unit}/s", "share of the peak"), rows)]


def shape_lines(shape: Shape, n_rows: int, peak: float) -> list[str]:
    """What single matrix products of the main job's shapes reach on this machine, without anything around them."""
    inner = {"head, 2,048 tokens at a time": (shape.d_model, 2048), "head, whole": (shape.d_model, shape.n_vocab)}
    inner |= {"MLP, up": (shape.d_model, shape.d_mlp), "MLP, down": (shape.d_mlp, shape.d_model)}
    rows = []
    for name, (k, n) in inner.items():
        left, right = torch.randn(n_rows, k), torch.randn(n, k)
        rate = 2 * n_rows * k * n / min(used(lambda left=left, right=right: left @ right.T).process for _ in range(5))
        rows.append((f"{name} ({k:,} x {n:,})", f"{rate / 1e9:.0f}", f"{rate / peak:.0%}"))
    return [table(("product of 512 rows with", "GFLOP/s", "share of the peak"), rows)]


def report(shape: Shape, layer: int, n_scores: int, n_sweep: int, batches: Sequence[int]) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    lm, sae = random_gemma2(shape, (PROMPT, *PREFIXES)), random_sae(shape, layer)
    peak = peak_flops()
    lens = used(lambda: top_logit_lens_tokens(lm, sae.W_dec[:n_scores], 20))
    score_profile = profiled(lm, sae, lambda: scores(lm, sae, lens.result[0], 512))
    sweep_profile = profiled(lm, sae, lambda: sweep(lm, sae, n_sweep, PREFIXES, 20, 512))
    score_flops, n_tokens = shape.feature_flops(layer), sweep(lm, sae, n_sweep, PREFIXES, 20, 512)
    shares = {
        "output score": n_scores * score_flops / score_profile.plain,
        "top logit-lens tokens (a step of its own)": n_scores * shape.head_flops / lens.process,
        "sweep": n_tokens * shape.token_flops / sweep_profile.plain,
    }
    counted = {"output score": score_flops, "top logit-lens tokens (a step of its own)": shape.head_flops, "sweep": shape.token_flops}
    rows = [(name, f"{counted[name] / 1e6:.0f}", f"{rate / 1e9:.0f}", f"**{rate / peak:.0%}**") for name, rate in shares.items()]
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
        *written_by("Where the time goes", "OMP_NUM_THREADS=1 python benchmarks/where_time_goes.py"),
        "",
        f"Model, SAE and thread as above: {n_scores:,} features for the output score, {n_tokens:,} tokens for the sweep. Process times;"
        f" {load_note()}.",
        f"Peak: one product of two 2,048 x 2,048 float32 matrices, {peak / 1e9:.0f} GFLOP/s. Counted: matrix products of the blocks after",
        "the steered one and of the head; of the sweep all blocks, the head and the encoder. Attention's own are left out (below 1 %).",
        "",
        f"In short: the head's and blocks' matrix products take {product_share(score_profile):.0%} of the output score's time and"
        f" {product_share(sweep_profile):.0%} of the sweep's; the rest is the pass over the vocabulary, norms and activations.",
        "",
        table(("", "MFLOP counted, a feature or token", "GFLOP/s", "share of the peak"), rows),
    ]
    return head + [line for title, lines in parts.items() for line in ("", f"**{title}**", "", *lines)]


def main() -> None:
    """Measure and write."""
    options = command_line(__doc__).parse_args()
    torch.set_num_threads(1)
    publish(report(MAIN_JOB, 5, 1024, 64, (32, 128, 512, 1024)), options.write)


if __name__ == "__main__":
    main()
