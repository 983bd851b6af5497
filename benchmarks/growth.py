"""How the cost of the output score and of the sweep grows with what is asked for: straight lines, and the fixed cost of a job apart.

    OMP_NUM_THREADS=1 python benchmarks/growth.py

writes its section of benchmarks/RESULTS.md, and benchmarks/growth/growth.pdf, .png and .csv. A small random Gemma-2; one quantity is varied
at a time, from the middle values of `Work`. Process seconds, median of three. The fixed cost of a job is measured by starting one: a new
Python that imports the engine, loads the model and the SAE from files, and ends.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.ticker
import numpy as np
import polars as pl
import torch
from matplotlib.figure import Figure
from measuring import command_line, load_note, publish, used, written_by
from random_model import PROMPT, SCORE_FACTOR, Shape, by_id, random_gemma2, random_sae, swept, write_sae

from saesteer.core.markdown import table
from saesteer.engine.continuation import Sampling
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.models import LanguageModel
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import Sae
from saesteer.figures.save import save_figure
from saesteer.figures.style import BLUE, GREY, MAGENTA, PAGE, new_figure, styled

SMALL = Shape(n_vocab=4096, d_model=128, n_layers=4, n_features=16_384, n_heads=4, n_kv_heads=2, head_dim=32, d_mlp=512)
FOLDER = Path(__file__).with_name("growth")
JOB = """
import sys
from pathlib import Path
from saesteer.engine.generations import feature_texts
from saesteer.engine.models import load_language_model
from saesteer.engine.output_score import output_scores
from saesteer.engine.saes import load_sae
load_language_model(Path(sys.argv[1]), "float32", "cpu")
load_sae(Path(sys.argv[2]), "float32", "cpu")
"""


@dataclass(frozen=True)
class Work:
    """What one measurement asks for."""

    step: str  # output_score or sweep
    n_features: int
    n_layers: int = SMALL.n_layers  # of the model; steered and scored at its first
    n_vocab: int = SMALL.n_vocab
    n_factors: int = 1
    n_prefixes: int = 1


SCORE, SWEEP = Work("output_score", 512), Work("sweep", 32, n_factors=2, n_prefixes=2)
VARIED: dict[tuple[str, str], tuple[Work, str, tuple[int, ...]]] = {
    ("output_score", "features"): (SCORE, "n_features", (10, 30, 100, 300, 1000, 3000, 10_000)),
    ("output_score", "layers"): (SCORE, "n_layers", (2, 4, 8, 16)),
    ("output_score", "vocabulary"): (SCORE, "n_vocab", (2048, 8192, 32_768, 65_536)),
    ("sweep", "features"): (SWEEP, "n_features", (10, 30, 100, 300)),
    ("sweep", "factors"): (SWEEP, "n_factors", (1, 2, 4, 8, 16)),
    ("sweep", "prefixes"): (SWEEP, "n_prefixes", (1, 2, 4, 8, 16)),
    ("sweep", "layers"): (SWEEP, "n_layers", (2, 4, 8, 16)),
    ("sweep", "vocabulary"): (SWEEP, "n_vocab", (2048, 8192, 32_768, 65_536)),
}
"""(step, quantity) -> the work, the field that is varied, its values."""


@dataclass(frozen=True)
class Line:
    """seconds = fixed + slope * quantity, fitted so that every point counts by its relative error."""

    fixed: float
    slope: float
    worst: float  # largest relative error of a point


def straight_line(x: np.ndarray, seconds: np.ndarray) -> Line:
    """Least squares of relative errors: small and large values weigh the same."""
    slope, fixed = np.polyfit(x, seconds, 1, w=1 / seconds)
    return Line(float(fixed), float(slope), float(np.abs((fixed + slope * x) / seconds - 1).max()))


def score(lm: LanguageModel, sae: Sae, work: Work) -> Callable[[], object]:
    """The output score, ready to run; its top logit-lens tokens are found before."""
    lens, _ = top_logit_lens_tokens(lm, sae.W_dec[: work.n_features], 20)
    return lambda: output_scores(lm, sae, 0, range(work.n_features), lens, PROMPT, SCORE_FACTOR)


def sweep(lm: LanguageModel, sae: Sae, work: Work) -> Callable[[], object]:
    """The sweep, ready to run: prefixes are of three made-up words."""
    prefixes = by_id([f"w{3 * number + 100} w{3 * number + 101} w{3 * number + 102}" for number in range(work.n_prefixes)])
    factors = [f"{1 + number / 10:g}" for number in range(work.n_factors)]
    return lambda: swept(lm, sae, work.n_features, prefixes, Sampling(), factors)


def process_seconds(work: Work, repeats: int) -> float:
    """Median over repeats, after one to warm up."""
    shape = replace(SMALL, n_layers=work.n_layers, n_vocab=work.n_vocab)
    lm, sae = random_gemma2(shape, (PROMPT,)), random_sae(shape, 0)
    run = {"output_score": score, "sweep": sweep}[work.step](lm, sae, work)
    run()
    return statistics.median(used(run).process for _ in range(repeats))


def measured(repeats: int, most: int) -> pl.DataFrame:
    """A row a measurement; values above `most` are left out."""
    rows = []
    for (step, quantity), (work, field, values) in VARIED.items():
        for value in (value for value in values if value <= most):
            seconds = process_seconds(replace(work, **{field: value}), repeats)
            rows.append({"step": step, "quantity": quantity, "value": value, "process_seconds": seconds})
            print(rows[-1], file=sys.stderr)
    return pl.DataFrame(rows)


def job_start(repeats: int) -> tuple[float, float]:
    """Process and wall seconds of a job that loads everything and computes nothing: the median."""
    with tempfile.TemporaryDirectory() as temporary:
        model, sae = Path(temporary) / "model", Path(temporary) / "sae.safetensors"
        lm = random_gemma2(SMALL, (PROMPT,))
        lm.model.save_pretrained(model)
        lm.tokenizer.save_pretrained(model)
        write_sae(SMALL, 0, sae)
        times = [_child([sys.executable, "-c", JOB, str(model), str(sae)]) for _ in range(repeats)]
    return statistics.median(process for process, _ in times), statistics.median(wall for _, wall in times)


def _child(command: list[str]) -> tuple[float, float]:
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - started


def lines_of(table: pl.DataFrame) -> dict[tuple[str, str], Line]:
    """A straight line for each step and quantity."""
    groups = table.group_by("step", "quantity", maintain_order=True)
    return {(str(key[0]), str(key[1])): straight_line(*group.select("value", "process_seconds").to_numpy().T) for key, group in groups}


@styled
def draw(table: pl.DataFrame, note: str) -> Figure:
    """A panel a quantity: points and lines of both steps."""
    quantities = table["quantity"].unique(maintain_order=True).to_list()
    figure = new_figure(PAGE, 2.4 * -(-len(quantities) // 3), note)
    panels = list(figure.subplots(-(-len(quantities) // 3), 3, squeeze=False).flat)
    looks = {"output_score": (BLUE, "o", "output score"), "sweep": (MAGENTA, "s", "sweep")}
    for panel, quantity in zip(panels, quantities, strict=False):
        for step, (colour, marker, label) in looks.items():
            points = table.filter(pl.col("step") == step, pl.col("quantity") == quantity)
            if len(points) < 2:
                continue
            x, seconds = points["value"].to_numpy().astype(float), points["process_seconds"].to_numpy()
            line, fine = straight_line(x, seconds), np.geomspace(x.min(), x.max(), 200)
            panel.plot(fine, line.fixed + line.slope * fine, color=colour, linewidth=1)
            panel.plot(x, seconds, marker, color=colour, label=label)
        panel.set(xscale="log", yscale="log", xlabel=quantity, ylabel="process seconds")
        values = table.filter(pl.col("quantity") == quantity)["value"].unique().sort().to_list()
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        panel.legend()
    for panel in panels[len(quantities) :]:
        panel.axis("off")
        panel.text(0, 0.5, "points: measured\nlines: fixed + slope x quantity", color=GREY)
    return figure


def report(measurements: pl.DataFrame, start: tuple[float, float], repeats: int) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    fitted = lines_of(measurements)
    slopes = {step: line.slope * 1e3 for (step, quantity), line in fitted.items() if quantity == "features"}
    further = "".join(f", a further feature {slope:.2g} ms of {step.replace('_', ' ')}" for step, slope in slopes.items())
    rows = []
    for (step, quantity), line in fitted.items():
        points = measurements.filter(pl.col("step") == step, pl.col("quantity") == quantity)
        x, seconds = points["value"], points["process_seconds"]
        fit = (f"{line.fixed:.3f} s", f"{line.slope * 1e3:.4g} ms", f"{line.worst:.0%}")
        rows.append((step.replace("_", " "), quantity, f"{x[0]:,} – {x[-1]:,}", f"{seconds[0]:.3f} – {seconds[-1]:.3f}", *fit))
    header = (
        "step",
        "quantity",
        "from – to",
        "seconds from – to",
        "fixed, within the job",
        "each further one",
        "largest error of the line",
    )
    return [
        *written_by("Growth", "OMP_NUM_THREADS=1 python benchmarks/growth.py"),
        "",
        f"A random Gemma-2 of {SMALL.n_layers} layers, width {SMALL.d_model}, {SMALL.n_vocab:,} tokens, SAE with {SMALL.n_features:,}"
        f" features, float32, one CPU thread; output score of {SCORE.n_features} features, sweep of {SWEEP.n_features} features x"
        f" {SWEEP.n_factors} factors x {SWEEP.n_prefixes} prefixes x 20 tokens; one of these varied at a time. Process seconds, median of"
        f" {repeats}; {load_note()}.",
        "",
        f"**Fixed cost of a job, before it computes anything: {start[0]:.1f} s of process time, {start[1]:.1f} s of wall time**",
        "(a new Python, imports, model and SAE loaded).",
        "",
        f"In short: straight lines, the worst off by {max(line.worst for line in fitted.values()):.0%}; here a job's start costs"
        f" {start[0]:.1f} s{further}.",
        "",
        "![cost against number of features, layers, vocabulary, factors, prefixes](growth/growth.png)",
        "",
        table(header, rows),
        "",
        "Fewer than 32 rows cost what 32 do: no forward runs below that, so that a row never depends on others.",
    ]


def main() -> None:
    """Measure, draw, write."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=int, default=10**9, help="leave out values above this, for a quick look")
    parser.add_argument("--figure", type=Path, default=FOLDER / "growth", help="where PDF, PNG and CSV go, without the ending")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measurements, start = measured(options.repeats, options.most), job_start(options.repeats)
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(measurements, f"one CPU thread, process time; a job's start costs {start[0]:.1f} s besides")
    save_figure(figure, measurements, options.figure)
    publish(report(measurements, start, options.repeats), options.write)


if __name__ == "__main__":
    main()
