"""The main kinds of work at Gemma-2-2B's shapes with random weights, timed on a GPU: what `gpu_counts.py` counts and models without one.

    python benchmarks/gpu_measured.py --dtype bfloat16
    python benchmarks/gpu_measured.py --dtype float32 "output score" "sweep, texts of 20 tokens"
    python benchmarks/gpu_measured.py

puts its rows into `benchmarks/gpu_measured.csv`, and that file's into benchmarks/RESULTS.md; without `--dtype` nothing is measured. Each
kind of work is done twice and the second time counts: the first loads the GPU's programs. `tf32`: float32 with its products in TF32.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import torch
from gpu_works import LAYER, PREFIXES, works
from measuring import command_line, publish, used, written_by
from random_model import GEMMA_2_2B, PROMPT, random_gemma2, sae_on_gpu

from saesteer.core.markdown import table
from saesteer.engine.attention import attention_on_gpu
from saesteer.engine.weights import number_type

TITLE = "Measured on a GPU"
MEASURED = Path(__file__).with_suffix(".csv")
KEYS = ["gpu", "dtype", "work"]
ENDS_BY_CHANCE = "sweep (P1)"
"""Left out: a random model's texts do not end as a trained one's do."""


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Rows, seconds and the most memory of a second run."""
    work()
    torch.cuda.reset_peak_memory_stats()
    took = used(work, "cuda")
    return {"rows": took.result, "seconds": took.wall, "gib": torch.cuda.max_memory_allocated() / 2**30}


def measure(dtype: str, names: Sequence[str]) -> None:
    """Time the kinds of work of these names, or all, and keep a row of each."""
    lm = random_gemma2(GEMMA_2_2B, [PROMPT, ".", *PREFIXES.values()], "cuda", number_type(dtype))
    lm.model.set_attn_implementation(attention_on_gpu(lm.model))
    kinds = works(lm, sae_on_gpu(GEMMA_2_2B, LAYER, number_type(dtype)), GEMMA_2_2B)
    with torch.no_grad():
        for name, work in kinds.items():
            if name in (names or kinds) and name != ENDS_BY_CHANCE:
                made = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "dtype": dtype, "work": name}
                keep(pl.DataFrame([made | timed(work)]))


def keep(row: pl.DataFrame) -> None:
    """Put a row in the place of the one with the same GPU, number format and work."""
    before = [pl.read_csv(MEASURED, schema=row.schema).join(row, on=KEYS, how="anti")] if MEASURED.is_file() else []
    pl.concat([*before, row]).write_csv(MEASURED)


def report() -> list[str]:
    """The section of the page."""
    rows = pl.read_csv(MEASURED)
    cells = [
        (
            row["work"],
            row["dtype"],
            f"{row['rows']:,}",
            f"{row['seconds']:.2f}",
            f"{1000 * row['seconds'] / row['rows']:.3f}",
            f"{row['gib']:.1f}",
        )
        for row in rows.iter_rows(named=True)
    ]
    made_with = " and ".join(f"{gpu} with torch {version}" for gpu, version in rows.select("gpu", "torch").unique().rows())
    return [
        *written_by(TITLE, "python benchmarks/gpu_measured.py --dtype bfloat16"),
        "",
        f"Gemma-2-2B's shapes, random weights, SAE of 16,384 features at layer {LAYER}. {made_with}.",
        "",
        table(("work", "format", "rows", "seconds", "seconds for 1,000 rows", "GiB held"), cells),
    ]


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--dtype", choices=("bfloat16", "float32", "tf32"), help="measure in this number format; default: nothing")
    parser.add_argument("works", nargs="*", help="default: all")
    options = parser.parse_args()
    if options.dtype:
        measure(options.dtype, options.works)
    publish(report(), options.write)


if __name__ == "__main__":
    main()
