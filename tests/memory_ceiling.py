"""Output scores and a sweep of the shipped model, as a program of its own: `memory_ceiling.py MEGABYTES FOLDER`.

MEGABYTES is what the address space may grow by after the model is loaded and has run once; "none": by anything. The batch is asked for, as
large as without a limit, so that memory does run out.
"""

import logging
import resource
import sys
from pathlib import Path

import polars as pl
import psutil
import torch
from engine_models import shipped_model, shipped_sae

from saesteer.engine.continuation import Sampling
from saesteer.engine.generations import feature_texts
from saesteer.engine.logit_lens import top_logit_lens_tokens
from saesteer.engine.output_score import output_scores

LAYER, PREFIXES = 5, {"0" * 16: "From my experience,"}


def scores(n: int, batch: int) -> pl.DataFrame:
    lm, sae = shipped_model(), shipped_sae(LAYER)
    lens = top_logit_lens_tokens(lm, sae.W_dec[:n], 20)[0]
    return output_scores(lm, sae, LAYER, range(n), lens, PREFIXES["0" * 16], 10.0, batch=batch)


def texts(n: int, batch: int) -> pl.DataFrame:
    rows = pl.DataFrame({"feature": range(n), "factor": ["2"] * n, "prefix_id": ["0" * 16] * n, "sample": [0] * n})
    rows = rows.cast({"feature": pl.UInt32, "sample": pl.UInt32})
    return pl.concat(feature_texts(shipped_model(), shipped_sae(LAYER), LAYER, rows, PREFIXES, Sampling(), 0, batch=batch))


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    spare, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir()
    scores(32, 32), texts(32, 32)
    if spare != "none":
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + int(spare) * 2**20, resource.RLIM_INFINITY))
    made = scores(1024, 1024), texts(1024, 1024)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for name, frame in zip(("scores", "texts"), made, strict=True):
        frame.write_parquet(folder / f"{name}.parquet")


if __name__ == "__main__":
    main()
