"""Paragraphs of books. Whole books are held apart: `train` for SAEs, `valid` and `judge` to measure."""

from pathlib import Path

import polars as pl

SPLITS = ("train", "valid", "judge")
COLUMNS = {"book": pl.Int64, "topic": pl.String, "split": pl.String, "position": pl.Int64, "text": pl.String}


def read_paragraphs(path: Path) -> pl.DataFrame:
    """book, topic, split, position (in the book) and text, in the order of books and positions."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file: give the paragraphs as `make smollm2-saes PARAGRAPHS=file.parquet`")
    frame = pl.read_parquet(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: paragraphs have {', '.join(COLUMNS)}")
    unknown = sorted(set(frame["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"{path}: split {unknown[0]!r}: known are {', '.join(SPLITS)}")
    return frame.select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items()).sort("book", "position")
