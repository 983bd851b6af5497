"""What the main kinds of work ask of a GPU at Gemma-2-2B's shapes, counted without one: tensors have shapes and no numbers.

    python benchmarks/gpu_counts.py

Counted: forwards of a decoding step's tiles, which share of their rows is live, how often a step waits, FLOPs, bytes read and written, the
most bytes held. In the sweep a text ends after each token with the chance that gives the shipped model's mean length; batches are full, as
most are in a real run. Modelled, not measured: every operation takes the longer of its FLOPs at `REACHED` of the peak and its bytes at
`REACHED` of the bandwidth, while the host starts one every `LAUNCH` seconds; the longer of both is the time. Peaks (dense) and bandwidths
are the makers'.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gpu_works import FULL_STOP, LAYER, N_NEW, instructions, works
from measuring import command_line, publish
from random_model import GEMMA_2_2B, PROMPT, random_gemma2, sae_on_gpu

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the pretended GPU
from pretended_gpu import EVENTS, WORK, pretended_gpu

from saesteer.core.markdown import table
from saesteer.engine import continuation, generate
from saesteer.engine.attention import attention_on_gpu
from saesteer.engine.models import LanguageModel

TITLE = "Counted for a GPU"
COMMAND = "python benchmarks/gpu_counts.py"
ANOTHER = 10
ENDS = 0.055
"""Chance of a full stop: texts of at most 20 tokens then have 12 on average, as the shipped model's."""
GPUS = {"H200": ({2: 989e12, 4: 67e12}, 4.8e12), "A100": ({2: 312e12, 4: 19.5e12}, 2.0e12)}
"""FLOPs a second by bytes of a number (bfloat16, float32 without TF32), bytes a second."""
REACHED, LAUNCH = 0.7, 5e-6
N_PAPER_SCORES, N_PAPER_TEXTS = 26 * 16_384, 2600 * 12 * 50
HEADINGS = (
    "work",
    "format",
    "rows",
    "forwards",
    "live rows",
    "waits a step",
    "TFLOP",
    "GB moved",
    "GiB held",
    *(f"{gpu}, s" for gpu in GPUS),
)


@dataclass
class Steps:
    """Decoding steps: how many, their forwards, rows and running rows, and how often the host waited."""

    n: int = 0
    forwards: int = 0
    rows: int = 0
    live: int = 0
    waits: int = 0


@dataclass(frozen=True)
class Counts:
    """Of one kind of work."""

    n_rows: int  # that come out
    steps: Steps
    operations: list[tuple[str, float, int, int]]
    peak: int

    def seconds(self, gpu: str) -> float:
        """Modelled."""
        flops, bandwidth = GPUS[gpu]
        device = sum(max(work / flops[2 if narrow == 2 else 4], size / bandwidth) for _, work, size, narrow in self.operations) / REACHED
        return max(device, LAUNCH * len(self.operations))


def contents(draw: np.random.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """What is copied from the GPU: tokens, some of which end a text; answers to whether anything is otherwise than usual, no; and ones."""

    def made(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.long and tensor.ndim == 1:
            return torch.from_numpy(np.where(draw.random(tensor.shape[0]) < ENDS, FULL_STOP, ANOTHER))
        return torch.full(tensor.shape, tensor.dtype != torch.bool or tensor.ndim > 0, dtype=tensor.dtype)

    return made


def n_waits() -> int:
    return sum(n for (what, _), n in EVENTS.items() if "wait" in what)


def counted(work: Callable[[], int]) -> Counts:
    """Do it, and count; model and SAE are there already."""
    WORK.operations.clear()
    WORK.peak = WORK.held
    steps, step_logits, advanced, continue_rows = Steps(), continuation.step_logits, continuation._advanced, generate.continue_rows

    def stepping(lm: LanguageModel, slots: continuation.Slots, prompt_length: int) -> torch.Tensor:
        steps.forwards, steps.rows, steps.live = steps.forwards + 1, steps.rows + len(slots.row), steps.live + int(slots.running.sum())
        return step_logits(lm, slots, prompt_length)

    def advancing(*args: object) -> continuation.Slots:
        steps.n += 1
        return advanced(*args)

    def continuing(*args: object) -> object:
        before = n_waits()
        made = continue_rows(*args)
        steps.waits += n_waits() - before
        return made

    continuation.step_logits, continuation._advanced, generate.continue_rows = stepping, advancing, continuing
    try:
        n_rows = work()
    finally:
        continuation.step_logits, continuation._advanced, generate.continue_rows = step_logits, advanced, continue_rows
    return Counts(n_rows, steps, list(WORK.operations), WORK.peak)


def live_share(n_concepts: int, n_factors: int = 14) -> float:
    """Live rows of a comparison of vectors, counted without running it: rows whose prompts have one length in the caches share tiles."""
    lengths = np.array(
        [max(continuation.SHORTEST_BUFFER[0], 2 ** (len(prompt) - 1).bit_length()) for prompt in instructions(10 * n_concepts)]
    )
    most, cuda = continuation.MOST_ROWS[1], torch.device("cuda")
    groups = {length: n_factors * int((lengths == length).sum()) for length in np.unique(lengths).tolist()}
    tiles = {length: continuation.full_tile(cuda, length) for length in groups}
    padded = [n // most * most + -(-(n % most) // tiles[length]) * tiles[length] for length, n in groups.items()]
    return sum(groups.values()) / sum(padded)


def p4_minutes(counts: Counts, gpu: str) -> float:
    """Modelled for one method in P4's setting, 500 concepts x 10 instructions x 14 factors of 128 tokens, from the first tokens of 10
    concepts: later tokens as long as these, fewer dead rows."""
    seconds = counts.seconds(gpu) / counts.n_rows * live_share(10) / live_share(500)
    return seconds * 500 * 10 * 14 * 128 / N_NEW / 60


P4 = [f"comparison: {kind}" for kind in ("unsteered, prompting", "vectors", "SAE codes set", "LoRA", "LoReFT")]


def row_of(name: str, dtype: str, counts: Counts) -> tuple[str, ...]:
    """A row of the table; amounts are for 1,000 rows."""
    steps, thousand = counts.steps, 1000 / counts.n_rows
    of_steps = (
        (f"{steps.forwards * thousand:.1f}", f"{steps.live / steps.rows:.0%}", f"{steps.waits / (steps.n + 1):.2f}")
        if steps.n
        else ("–",) * 3
    )
    work, moved = (sum(column) * thousand for column in list(zip(*counts.operations, strict=True))[1:3])
    amounts = (f"{work / 1e12:,.1f}", f"{moved / 1e9:,.0f}", f"{counts.peak / 2**30:.1f}")
    return (name, dtype, f"{counts.n_rows:,}", *of_steps, *amounts, *(f"{counts.seconds(gpu) * thousand:.3f}" for gpu in GPUS))


def results(dtype: str) -> dict[str, Counts]:
    """All kinds of work in one number format."""
    with pretended_gpu(2**37, contents(np.random.default_rng(0))), torch.no_grad():
        lm = random_gemma2(GEMMA_2_2B, [PROMPT, "."], "meta", dtype)
        lm.model.to("cuda")
        lm.model.set_attn_implementation(attention_on_gpu(lm.model))
        kinds = works(lm, sae_on_gpu(GEMMA_2_2B, LAYER, dtype), GEMMA_2_2B)
        return {name: counted(work) for name, work in kinds.items()}


def report(every: dict[str, dict[str, Counts]]) -> list[str]:
    """The section of the page."""
    rows = [row_of(name, dtype, counts) for dtype, of_dtype in every.items() for name, counts in of_dtype.items()]
    times = {
        (what, dtype): f"{every[dtype][name].seconds('H200') / every[dtype][name].n_rows * n:,.0f} s"
        for what, name, n in (("scores", "output score", N_PAPER_SCORES), ("sweep", "sweep (P1)", N_PAPER_TEXTS))
        for dtype in every
    }
    return [
        f"# {TITLE}",
        "",
        f"Written by `{COMMAND}`; counted and modelled, not measured: no GPU was there.",
        "",
        f"Gemma-2-2B's shapes, SAE of 16,384 features at layer {LAYER}. Amounts are for 1,000 rows. Modelled: {REACHED:.0%} of peak and",
        f"bandwidth, {LAUNCH * 1e6:.0f} microseconds for the host to start an operation; float32 without TF32.",
        "",
        f"In short: modelled for an H200, all {N_PAPER_SCORES:,} output scores take {times['scores', 'bfloat16']} in bfloat16 and "
        f"{times['scores', 'float32']} in float32, P1's {N_PAPER_TEXTS:,} texts {times['sweep', 'bfloat16']} and "
        f"{times['sweep', 'float32']}.",
        "",
        table(HEADINGS, rows),
        "",
        "P4's setting, modelled for an H200 in bfloat16, one method of each kind: "
        + ", ".join(f"{name.partition(': ')[2]} {p4_minutes(every['bfloat16'][name], 'H200'):.0f} min" for name in P4)
        + ".",
        "Live rows of a comparison of vectors by its size: "
        + ", ".join(f"{n} concepts {live_share(n):.0%}" for n in (10, 20, 50, 100, 500))
        + " (P4 has 500). Fine-tuned weights are shared by one concept's texts at one strength only: a forward there has 32 rows and takes",
        "the time to read the weights, however many of them live.",
    ]


def main() -> None:
    options = command_line(__doc__).parse_args()
    publish(report({dtype: results(dtype) for dtype in ("bfloat16", "float32")}), options.write)


if __name__ == "__main__":
    main()
