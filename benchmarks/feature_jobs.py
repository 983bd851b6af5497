"""How far from linear the wall time stays when a layer's features are spread over jobs (`features_per_job`), from 1 to 64 GPUs.

    python benchmarks/feature_jobs.py

writes its section of benchmarks/RESULTS.md. The cluster is simulated, and jobs' lengths are estimated, as by benchmarks/cluster_scaling.py:
their start (`--start`), their model's bytes, and their features' operations at a GPU's rate (`--tflops`, several). Where a GPU has been
measured, give its rate. For each number of GPUs the best features_per_job is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from cluster_scaling import START, Experiment, jobs_of, simulated_wall
from measuring import command_line, publish, written_by
from random_model import GEMMA_2_2B

from saesteer.core.markdown import table

TFLOPS = (180.0, 60.0, 20.0)
"""Rates of a GPU, the first as in cluster_scaling.py: the slower it is, the longer is a job beside its start."""
LINEAR = 0.9
GPUS = (1, 2, 4, 8, 16, 32, 64)
EXPERIMENTS = (
    Experiment("26 layers of 100 features", GEMMA_2_2B),
    Experiment("2 layers of 500 features (P1's Table 1)", GEMMA_2_2B, n_layers=2, n_features=500),
)


def efficiency(experiment: Experiment, tflops: float, start: float, n_gpus: int) -> tuple[float, int]:
    """The largest share of linear scaling, and the features_per_job that gives it: a GPU's wall time with whole layers, divided by the
    GPUs, over theirs."""
    whole, n = simulated_wall(jobs_of(experiment, tflops, start=start), 1), experiment.n_features
    parts = [number for number in range(1, 65) if number == 1 or len(experiment.layers) * number <= 8 * n_gpus]
    walls = {size: simulated_wall(jobs_of(experiment, tflops, size, start), n_gpus) for size in {-(-n // number) for number in parts}}
    return max((whole / n_gpus / wall, size) for size, wall in walls.items())


def report(rates: Sequence[float], start: float, command: str) -> list[str]:
    """The section of benchmarks/RESULTS.md."""
    rows, holds = [], []
    for experiment, tflops in itertools.product(EXPERIMENTS, rates):
        found = {n: efficiency(experiment, tflops, start, n) for n in GPUS}
        whole = {n: simulated_wall(jobs_of(experiment, tflops, start=start), n) for n in GPUS}
        layers = [f"{whole[1] / n / whole[n]:.0%}" for n in GPUS]
        shares = [f"**{share:.0%}** ({size})" for share, size in found.values()]
        rows += [[experiment.name, f"{tflops:g}", f"{whole[1] / 3600:.1f} h", "no", *layers], ["", "", "", "yes", *shares]]
        most = max(n for n in GPUS if all(found[fewer][0] >= LINEAR for fewer in GPUS if fewer <= n))
        holds.append(f"{experiment.name} at {tflops:g} TFLOP/s up to {most} GPUs")
    title, *_ = written_by("A layer over several GPUs", command)
    return [
        title,
        "",
        f"Written by `{command}`. Simulated: nothing here ran on a GPU.",
        "",
        f"In short: at least {LINEAR:.0%} of linear for {'; '.join(holds)}.",
        "",
        f"Share of linear scaling without `features_per_job` and with it (the best size in brackets); a job takes {start:g} s to start,",
        "and Snakemake looks for ended jobs every 10 to 180 s. Linear: one GPU's time with whole layers, divided by the GPUs.",
        "",
        table(("experiment", "TFLOP/s", "on one GPU", "features_per_job", *(f"{n} GPUs" if n > 1 else "1 GPU" for n in GPUS)), rows),
        "",
        "What is lost beyond are the starts of jobs and the waits until Snakemake looks: both weigh more the shorter jobs are. An",
        "experiment of an hour does not become one of a minute.",
    ]


def main() -> None:
    """Simulate, write."""
    parser = command_line(__doc__)
    parser.add_argument("--tflops", type=float, nargs="+", default=TFLOPS, help="rates at which GPUs work; they shape the jobs' lengths")
    parser.add_argument("--start", type=float, default=START, help="seconds of a job before it loads a model")
    options = parser.parse_args()
    words = [f"--tflops {' '.join(f'{rate:g}' for rate in options.tflops)}"] if tuple(options.tflops) != TFLOPS else []
    words += [f"--start {options.start:g}"] if options.start != START else []
    publish(report(options.tflops, options.start, " ".join(["python benchmarks/feature_jobs.py", *words])), options.write)


if __name__ == "__main__":
    main()
