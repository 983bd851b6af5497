"""How the wall time of the papers' experiments falls with the number of GPUs, and where it stops.

    python benchmarks/cluster_scaling.py

writes its section of benchmarks/RESULTS.md, and benchmarks/cluster/scaling.pdf, .png and .csv. A job a layer and step, as in the workflow:
logit_lens -> output_score, sweep -> perplexity; all other steps run on the submitting host. A discrete-event simulation of the cluster with
Snakemake before it: at most 64 jobs in the queue, and a job's end noticed only at the next look: 10 s after the last, then 20, 30, ... up
to 180 s while no job ends (slurm/config.yaml).

How long a job takes is estimated, not measured: the operations of its rows (benchmarks/random_model.py) at `--tflops`, plus its start.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from matplotlib.figure import Figure
from measuring import command_line, publish, written_by
from random_model import GEMMA_2_2B, GEMMA_2_9B, Shape

from saesteer.core.markdown import table
from saesteer.figures.save import save_figure
from saesteer.figures.style import BLUE, GREY, MAGENTA, PAGE, new_figure, styled

N_FEATURES, N_FACTORS, N_PREFIXES, N_TOKENS, PREFIX_TOKENS = 100, 13, 50, 20, 8
"""A layer's, in P1's experiments (12 factors, and 0); prefixes have about eight tokens."""
TFLOPS = 180.0
"""What the target of 15 minutes for the 2B sweep asks of a GPU."""
START = 15.0
"""Seconds of a job before it loads a model: Snakemake on the node, Python, imports."""
READ_RATE = 2e9  # bytes a second at which a model is loaded
LOOKS = (10.0, 10.0, 180.0)
"""Seconds to the first look at the queue, what is added while no job ends, the most."""
QUEUE = 64
SIMULATED = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Job:
    """One layer's job of a step."""

    step: str
    layer: int
    seconds: float
    after: int | None  # index of the job that it waits for


@dataclass(frozen=True)
class Experiment:
    """A paper's experiment: the model that is steered (float32), and the one that scores its texts (bfloat16)."""

    name: str
    model: Shape
    scorer: Shape = GEMMA_2_9B


EXPERIMENTS = (Experiment("Gemma-2-2B", GEMMA_2_2B), Experiment("Gemma-2-9B", GEMMA_2_9B))


def step_seconds(experiment: Experiment, tflops: float) -> dict[str, float]:
    """The length of a layer's job by step: its start, its model's bytes, its rows' operations."""
    model, scorer = experiment.model, experiment.scorer
    n_texts = N_FEATURES * N_FACTORS * N_PREFIXES
    scored = n_texts * (2.0 * scorer.n_layers * scorer.block_weights * (PREFIX_TOKENS + N_TOKENS) + scorer.head_flops * N_TOKENS)
    flops = {
        "logit_lens": N_FEATURES * model.head_flops,
        "output_score": N_FEATURES * model.feature_flops(model.n_layers // 2),
        "sweep": n_texts * N_TOKENS * model.token_flops,
        "perplexity": scored,
    }
    size = dict.fromkeys(flops, 4 * model.n_parameters) | {"perplexity": 2 * scorer.n_parameters}
    return {step: START + size[step] / READ_RATE + flops[step] / tflops / 1e12 for step in flops}


def jobs_of(experiment: Experiment, tflops: float) -> list[Job]:
    """In the order of submission: what waits for nothing comes first."""
    seconds, following = step_seconds(experiment, tflops), {"logit_lens": "output_score", "sweep": "perplexity"}
    first = [Job(step, layer, seconds[step], None) for layer in range(experiment.model.n_layers) for step in following]
    return first + [Job(following[job.step], job.layer, seconds[following[job.step]], place) for place, job in enumerate(first)]


def looks(until: float, ends: Sequence[float], now: float, wait: float) -> tuple[float, float]:
    """The next look that finds a job ended, and the wait after it."""
    first, step, most = LOOKS
    while True:
        now += wait
        if any(end <= now for end in ends) or now > until:
            return now, first
        wait = min(wait + step, most)


def simulated_wall(jobs: Sequence[Job], n_gpus: int) -> float:
    """Seconds until Snakemake knows that the last job has ended, with first come, first served on `n_gpus`."""
    free = [0.0] * n_gpus
    waiting, done = list(range(len(jobs))), set[int]()
    running: dict[int, float] = {}
    now, wait = 0.0, LOOKS[0]
    while len(done) < len(jobs):
        ready = [place for place in waiting if jobs[place].after is None or jobs[place].after in done]
        for place in ready[: QUEUE - len(running)]:
            start = max(now, heapq.heappop(free))
            running[place] = start + jobs[place].seconds
            heapq.heappush(free, running[place])
            waiting.remove(place)
        now, wait = looks(max(running.values()), list(running.values()), now, wait)
        ended = {place for place, end in running.items() if end <= now}
        done |= ended
        running = {place: end for place, end in running.items() if place not in ended}
    return now


def critical_path(jobs: Sequence[Job]) -> float:
    """The longest chain: what no number of GPUs falls below."""
    return max(job.seconds + (0 if job.after is None else jobs[job.after].seconds) for job in jobs)


def simulated(tflops: float) -> pl.DataFrame:
    """A row an experiment and number of GPUs."""
    rows = []
    for experiment, n_gpus in itertools.product(EXPERIMENTS, SIMULATED):
        jobs = jobs_of(experiment, tflops)
        bound = max(sum(job.seconds for job in jobs) / n_gpus, critical_path(jobs))
        minutes = {"bound_minutes": bound / 60, "snakemake_minutes": simulated_wall(jobs, n_gpus) / 60}
        rows.append({"experiment": experiment.name, "gpus": n_gpus} | minutes)
    return pl.DataFrame(rows)


def stops_at(walls: pl.DataFrame) -> int:
    """The number of GPUs of which twice as many save less than a tenth."""
    minutes = dict(walls.select("gpus", "snakemake_minutes").iter_rows())
    return next((n for n in minutes if 2 * n in minutes and minutes[2 * n] > 0.9 * minutes[n]), max(minutes))


@styled
def draw(walls: pl.DataFrame, note: str) -> Figure:
    """Wall time against GPUs, and how many times faster than one."""
    figure = new_figure(PAGE, 3.2, note)
    minutes, faster = figure.subplots(1, 2)
    for (key, rows), colour in zip(walls.group_by("experiment", maintain_order=True), (BLUE, MAGENTA), strict=True):
        name, wall = key[0], rows["snakemake_minutes"]
        minutes.plot(rows["gpus"], wall, "o-", color=colour, label=f"{name}, with Snakemake")
        minutes.plot(rows["gpus"], rows["bound_minutes"], "--", color=colour, linewidth=1, label=f"{name}, bound")
        faster.plot(rows["gpus"], wall[0] / wall, "o-", color=colour, label=f"{name}, with Snakemake")
    minutes.set(ylabel="wall time, minutes")
    faster.set(ylabel="times faster than one GPU")
    for axes in (minutes, faster):
        axes.set(xscale="log", yscale="log", xlabel="GPUs")
        axes.set_xticks(SIMULATED, [str(n) for n in SIMULATED])
        axes.minorticks_off()
        axes.grid(color=GREY, alpha=0.2)
        axes.legend()
    faster.set_yticks(SIMULATED[:7], [str(n) for n in SIMULATED[:7]])
    return figure


def length_lines(tflops: float) -> list[str]:
    """The jobs, and how long each is taken to be."""
    lines = [
        f"A job a layer and step, a GPU a job. Its length is estimated: operations of its rows at {tflops:g} TFLOP/s (what 15 minutes for",
        f"the 2B sweep ask of a GPU), {START:g} s to start, its model read at {READ_RATE / 1e9:g} GB/s. {N_FEATURES} features a layer,"
        f" {N_FACTORS} factors, {N_PREFIXES} prefixes,",
        f"{N_TOKENS} tokens; texts scored by Gemma-2-9B.",
        "",
    ]
    rows, steps = [], ("logit_lens", "output_score", "sweep", "perplexity")
    for experiment in EXPERIMENTS:
        seconds, jobs = step_seconds(experiment, tflops), jobs_of(experiment, tflops)
        rows.append([experiment.name, *(f"{seconds[step]:.0f} s" for step in steps), len(jobs), f"{critical_path(jobs):.0f} s"])
    return [*lines, table(("", *steps, "jobs", "longest chain"), rows)]


def short_line(walls: pl.DataFrame) -> str:
    """What eight GPUs bring, and where it ends."""
    parts = []
    for key, rows in walls.group_by("experiment", maintain_order=True):
        walls = dict(rows.select("gpus", "snakemake_minutes").iter_rows())
        ends = f"{min(walls.values()):.1f} min from {stops_at(rows)} GPUs on"
        parts.append(f"{key[0]} {walls[1]:.0f} min on one GPU, {walls[8]:.0f} min on 8, {ends}")
    return f"In short: simulated, with estimated job lengths: {'; '.join(parts)}."


def report(walls: pl.DataFrame, tflops: float) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    rows, ends = [], []
    for (name,), of_experiment in walls.group_by("experiment", maintain_order=True):
        first = of_experiment.row(0, named=True)
        for row in of_experiment.to_dicts():
            wall = row["snakemake_minutes"]
            faster = f"{first['snakemake_minutes'] / wall:.1f}x"
            rows.append((name, row["gpus"], f"{row['bound_minutes']:.1f} min", f"**{wall:.1f} min**", faster))
        ends += ["", f"{name}: from {stops_at(of_experiment)} GPUs on, twice as many save less than a tenth; it ends at {wall:.1f} min."]
    *title, written = written_by("More than one GPU", "python benchmarks/cluster_scaling.py")
    return [
        *title,
        f"{written.partition(';')[0]}. Simulated: nothing here ran on a GPU.",
        "",
        short_line(walls),
        "",
        *length_lines(tflops),
        "",
        "Bound: all work divided by the GPUs, or the longest chain. With Snakemake: a job's end is noticed at the next look at the queue,",
        "at most 64 jobs are in it.",
        "",
        "![wall time against GPUs](cluster/scaling.png)",
        "",
        table(("experiment", "GPUs", "bound", "with Snakemake", "faster by"), rows),
        *ends,
        "",
        "It stops where each layer's longest chain (its sweep, then its perplexity, a job each) has a GPU of its own.",
    ]


def main() -> None:
    """Simulate, draw, write."""
    parser = command_line(__doc__)
    parser.add_argument("--tflops", type=float, default=TFLOPS, help="at which a GPU works; shapes the jobs' lengths")
    parser.add_argument("--figure", type=Path, default=Path(__file__).with_name("cluster") / "scaling", help="without the ending")
    options = parser.parse_args()
    walls = simulated(options.tflops)
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    save_figure(draw(walls, f"job lengths estimated at {options.tflops:g} TFLOP/s; not run on GPUs"), walls, options.figure)
    publish(report(walls, options.tflops), options.write)


if __name__ == "__main__":
    main()
