"""The progress of long work: how much is done and the time left, and the rate in the log."""

import logging
import time
from collections.abc import Iterable, Iterator

import polars as pl
from tqdm import tqdm

log = logging.getLogger("saesteer")


def with_progress(frames: Iterable[pl.DataFrame], total: int, unit: str, tokens: str | None = None) -> Iterator[pl.DataFrame]:
    """Pass finished frames on; show how many of the rows are done, the time left, and log rows/s (and tokens/s) at the end."""
    started, n_rows, n_tokens = time.monotonic(), 0, 0
    with tqdm(total=total, unit=unit, mininterval=5) as bar:
        for frame in frames:
            n_rows += frame.height
            n_tokens += int(frame[tokens].cast(pl.Int64).sum()) if tokens else 0
            bar.update(frame.height)
            yield frame
    seconds = max(time.monotonic() - started, 1e-9)
    log.info(
        "%d %ss in %.1f s, %.0f/s%s", n_rows, unit, seconds, n_rows / seconds, f", {n_tokens / seconds:.0f} tokens/s" if tokens else ""
    )
