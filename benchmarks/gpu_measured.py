"""The main kinds of work at Gemma-2-2B's shapes with random weights, timed on a GPU: what `gpu_counts.py` counts and models without one.

    python benchmarks/gpu_measured.py bfloat16
    python benchmarks/gpu_measured.py float32 "output score" "sweep, texts of 20 tokens"

puts its rows into `benchmarks/gpu_measured.csv`; `gpu_counts.py` shows them beside its own. Each kind of work is done twice and the second
time counts: the first loads the GPU's programs. `tf32`: float32 with its products in TF32.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from gpu_works import LAYER, PREFIXES, works
from measuring import used
from random_model import GEMMA_2_2B, PROMPT, random_gemma2, random_sae

from saesteer.engine.attention import attention_on_gpu
from saesteer.engine.saes import TENSORS
from saesteer.engine.weights import number_type

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dtype", choices=("bfloat16", "float32", "tf32"))
    parser.add_argument("works", nargs="*", help="default: all")
    options = parser.parse_args()
    dtype = number_type(options.dtype)
    lm = random_gemma2(GEMMA_2_2B, [PROMPT, ".", *PREFIXES.values()], "cuda", dtype)
    lm.model.set_attn_implementation(attention_on_gpu(lm.model))
    sae = random_sae(GEMMA_2_2B, LAYER)
    sae = replace(sae, **{name: getattr(sae, name).to(getattr(torch, dtype)).to("cuda") for name in TENSORS})
    with torch.no_grad():
        for name, work in works(lm, sae, GEMMA_2_2B).items():
            if name in (options.works or works(lm, sae, GEMMA_2_2B)) and name != ENDS_BY_CHANCE:
                row = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "dtype": options.dtype, "work": name, **timed(work)}
                print(time.strftime("%H:%M:%S"), row, flush=True)
                keep(pl.DataFrame([row]))


def keep(row: pl.DataFrame) -> None:
    """Put a row in the place of the one with the same GPU, number format and work."""
    before = [pl.read_csv(MEASURED, schema=row.schema).join(row, on=KEYS, how="anti")] if MEASURED.is_file() else []
    pl.concat([*before, row]).write_csv(MEASURED)


if __name__ == "__main__":
    main()
