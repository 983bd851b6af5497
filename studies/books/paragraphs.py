"""Paragraphs of books with their topics, and the rows of tokens that models are trained on.

Whole books are held apart: `train` for models, tokenizer, SAEs and the classifier, `valid` to choose cuts, `judge` to measure.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import UInt16
from transformers import PreTrainedTokenizerFast

from studies.world.tokenizer import BOS_ID, PAD_ID

SPLITS = ("train", "valid", "judge")
COLUMNS = {"book": pl.Int64, "topic": pl.String, "split": pl.String, "position": pl.Int64, "text": pl.String}
# A full stop, question or exclamation mark, closing quotes with it, before a capital, a digit or an opening quote.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]* +(?=[\"'(]?[A-Z0-9])")


def read_paragraphs(path: Path) -> pl.DataFrame:
    """book, topic, split, position (in the book) and text, in the order of books and positions."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file: give the paragraphs as `make books PARAGRAPHS=file.parquet`")
    frame = pl.read_parquet(path)
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: paragraphs have {', '.join(COLUMNS)}")
    unknown = sorted(set(frame["split"]) - set(SPLITS))
    if unknown:
        raise ValueError(f"{path}: split {unknown[0]!r}: known are {', '.join(SPLITS)}")
    return frame.select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items()).sort("book", "position")


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph; one that ends at an abbreviation's point is cut too early."""
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [text[start:end].rstrip(" ") for start, end in pairwise(ends)]


def book_sentences(paragraphs: pl.DataFrame) -> list[list[str]]:
    """Each book's sentences in order."""
    books = paragraphs.group_by("book", maintain_order=True).agg("text")["text"]
    return [[sentence for text in book for sentence in sentences(text)] for book in books]


def packed_rows(tokenizer: PreTrainedTokenizerFast, books: Sequence[Sequence[str]], context: int) -> UInt16[np.ndarray, "row context"]:
    """Rows of BOS and a book's sentences, filled to the end; a row starts with the sentence that did not fit into the one before, whole.

    What a sentence has beyond a whole row is left out; a book's last row is padded.
    """
    rows = [row for book in books for row in _book_rows(tokenizer, book, context)]
    packed = np.full((len(rows), context), PAD_ID, dtype=np.uint16)
    for place, row in enumerate(rows):
        packed[place, : len(row)] = row
    return packed


def _book_rows(tokenizer: PreTrainedTokenizerFast, book: Sequence[str], context: int) -> Iterator[list[int]]:
    first: list[list[int]] = tokenizer(list(book), add_special_tokens=False)["input_ids"]  # as a text begins
    inside: list[list[int]] = tokenizer([" " + sentence for sentence in book], add_special_tokens=False)["input_ids"]
    start = 0
    while start < len(book):
        row, end = [BOS_ID, *first[start]], start + 1
        while len(row) < context and end < len(book):
            row += inside[end]
            end += 1
        yield row[:context]
        start = end if len(row) <= context else max(end - 1, start + 1)
