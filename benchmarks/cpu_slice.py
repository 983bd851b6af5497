"""What a row costs at Gemma-2-2B's sizes on one CPU thread, and what that extrapolates to: for gemma_2_2b.py where no GPU is at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from random_model import GEMMA_2_2B, Shape

from saesteer.core.markdown import table
from saesteer.engine.models import LanguageModel

H200 = 790e12
"""FLOP/s that a large bfloat16 product reaches there (dense)."""


@dataclass(frozen=True)
class Cost:
    """Process seconds of one more row: in one decoder block, and in all else (head, statistics or sampling)."""

    block: float
    rest: float


@dataclass(frozen=True)
class Rates:
    """What was measured."""

    lens: float  # process seconds of a feature's top logit-lens tokens
    score: Cost  # of a feature
    sweep: Cost  # of a token
    load_wall: float  # seconds of reading an SAE
    peak_gib: float
    device_flops: float


@contextmanager
def block_seconds(lm: LanguageModel) -> Iterator[list[float]]:
    """Within the context, a list of the process seconds of every decoder block's forward."""
    times: list[float] = []
    started = [0.0]

    def before(*_: object) -> None:
        started[0] = time.process_time()

    def after(*_: object) -> None:
        times.append(time.process_time() - started[0])

    with ExitStack() as hooks:
        for block in lm.blocks:
            hooks.callback(block.register_forward_pre_hook(before).remove)
            hooks.callback(block.register_forward_hook(after).remove)
        yield times


def marginal(lm: LanguageModel, work: Callable[[int], object], amounts: tuple[int, int], rows_each: int, n_blocks: int) -> Cost:
    """Cost of a further row, from a small and a larger amount of work: what is done once (the prompt's own run) falls out. A row runs
    through `n_blocks` blocks."""
    work(amounts[0])
    blocks, rests = [], []
    for amount in amounts:
        with block_seconds(lm) as times:
            started = time.process_time()
            work(amount)
            total = time.process_time() - started
        blocks.append(sum(times))
        rests.append(total - sum(times))
    n_rows = (amounts[1] - amounts[0]) * rows_each
    return Cost(block=(blocks[1] - blocks[0]) / n_rows / n_blocks, rest=(rests[1] - rests[0]) / n_rows)


def lines(shape: Shape, rates: Rates, amounts: str, paper_tokens: int, command: str) -> list[str]:
    """The slice, what it extrapolates to, and the arithmetic for a GPU."""
    score_flops = shape.head_flops + shape.feature_flops(0)
    rate = score_flops / (rates.lens + rates.score.rest + (shape.n_layers - 1) * rates.score.block)
    tokens = 1 / (rates.sweep.rest + shape.n_layers * rates.sweep.block)
    rows = {
        "top logit-lens tokens, a feature": f"{rates.lens * 1e3:.1f} ms",
        "output score, a feature: head and statistics": f"{rates.score.rest * 1e3:.1f} ms",
        "output score, a feature: each block after the steered one": f"{rates.score.block * 1e3:.2f} ms",
        "FLOP/s of top logit-lens tokens and output score": share_of(rate, rates.device_flops),
        "sweep, a token: head, encoder, sampling": f"{rates.sweep.rest * 1e3:.1f} ms",
        "sweep, a token: each block": f"{rates.sweep.block * 1e3:.2f} ms",
        f"FLOP/s of the sweep, {tokens:.1f} tokens/s with {shape.n_layers} layers": share_of(
            tokens * shape.token_flops, rates.device_flops
        ),
        f"reading an SAE ({8e-6 * shape.n_features * shape.d_model:.0f} MB, digest checked), wall time": f"{rates.load_wall:.1f} s",
        "peak memory of the process": f"{rates.peak_gib:.1f} GiB",
    }
    return [
        f"**Not measured on a GPU**: none was at hand. Where there is one, `{command}` fills this section; with",
        "`--dtype bfloat16`, and with `--max-memory-gib 24`, it writes sections beside it.",
        "",
        f"What was measured is a slice, on one CPU thread: {shape.n_layers} of {GEMMA_2_2B.n_layers} layers, width {shape.d_model:,},"
        f" {shape.n_vocab:,} tokens, an SAE of {shape.n_features:,} features; {amounts}. Process times of a further row.",
        "",
        table(("slice", "measured"), rows.items()),
        "",
        *extrapolation_lines(shape, rates, paper_tokens),
        "",
        *arithmetic_lines(paper_tokens),
    ]


def share_of(rate: float, device_flops: float) -> str:
    """A rate, and its share of what a large product reaches on the same thread."""
    return f"{rate / 1e9:.0f} GFLOP/s: {rate / device_flops:.0%} of a large product's {device_flops / 1e9:.0f}"


def extrapolation_lines(shape: Shape, rates: Rates, paper_tokens: int) -> list[str]:
    """What this machine would need, and on what that rests."""
    whole = GEMMA_2_2B
    if (shape.d_model, shape.n_vocab) != (whole.d_model, whole.n_vocab):
        return ["Nothing is extrapolated from it: its sizes are not Gemma-2-2B's."]
    after = sum(range(whole.n_layers))  # blocks after the steered one, over all layers
    scores = whole.n_features * (whole.n_layers * (rates.lens + rates.score.rest) + after * rates.score.block)
    texts = paper_tokens * (rates.sweep.rest + whole.n_layers * rates.sweep.block)
    return [
        f"In short: not measured on a GPU; extrapolated from a slice, one thread would need {scores / 3600:,.1f} hours for the output"
        f" score of every feature and {texts / 86400:,.0f} days for the paper's sweep.",
        "",
        f"An extrapolation, not a measurement: one thread of this machine would need **{scores / 3600:,.1f} hours** for the output score",
        f"of all {whole.n_layers * whole.n_features:,} features and **{texts / 86400:,.1f} days** for the paper's sweep ({paper_tokens:,}",
        "tokens). It rests on the slice's times for a further row, on every block costing the same, and on nothing else taking time.",
    ]


def arithmetic_lines(paper_tokens: int) -> list[str]:
    """What the hardware's limit allows."""
    whole = GEMMA_2_2B
    scores = whole.n_features * sum(whole.feature_flops(layer) + whole.head_flops for layer in range(whole.n_layers))
    texts = paper_tokens * whole.token_flops
    return [
        f"Arithmetic, not a measurement: output score and logit lens take {scores / 1e15:.2f} PFLOP, the sweep {texts / 1e15:.0f}.",
        f"At the {H200 / 1e12:.0f} TFLOP/s that a large bfloat16 product reaches on an H200 that is {scores / H200:.1f} s and"
        f" {texts / H200 / 60:.1f} min; the targets (15 s in",
        f"bfloat16, 15 min) ask for {scores / H200 / 15:.0%} and {texts / H200 / 900:.0%} of it.",
    ]
