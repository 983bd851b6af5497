"""Residuals that SAEs are trained on: of a public model on the books' paragraphs and on texts that it wrote, stored so that SAEs of several
kinds can be trained on the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from tqdm import tqdm

from saesteer.core.files import write_atomically
from saesteer.engine.models import LanguageModel, padded_ids, residuals_at

CONTEXT = 128
"""Tokens of a row, its first (the model's beginning-of-sequence token) included."""

ROWS_AT_ONCE = 32
ROWS_OF_A_SHARD = 1024
SPLITS = ("train", "valid", "judge")
"""Splits of whole books: train for SAEs, valid and judge to measure."""
COLUMNS = {"book": pl.Int64, "topic": pl.String, "split": pl.String, "position": pl.Int64, "text": pl.String}
"""Columns of paragraphs; position is a paragraph's place in its book."""


@dataclass(frozen=True)
class Rows:
    """Token rows, padded on the right."""

    ids: Int64[np.ndarray, "row context"]
    used: Bool[np.ndarray, "row context"]  # tokens that SAEs are trained on: all but the first and the padding

    def take(self, which: Int64[np.ndarray, " chosen"]) -> "Rows":
        """Some rows in the given order."""
        return Rows(self.ids[which], self.used[which])


def book_rows(lm: LanguageModel, paragraphs: Path, split: str, most_tokens: int, seed: int) -> Rows:
    """Pieces of 127 tokens of the paragraphs of each book of a split, drawn without replacement up to `most_tokens`."""
    books = read_paragraphs(paragraphs).filter(split=split).group_by("book", maintain_order=True).agg(pl.col("text").str.join("\n"))
    ids: list[list[int]] = lm.tokenizer(books["text"].to_list(), add_special_tokens=False)["input_ids"]
    size = CONTEXT - 1
    pieces = [book[start : start + size] for book in ids for start in range(0, len(book) - size + 1, size)]
    order = np.random.default_rng(seed).permutation(len(pieces))[: most_tokens // size]
    return padded(lm, [pieces[place] for place in order])


def read_paragraphs(path: Path) -> pl.DataFrame:
    """COLUMNS of all books, in the order of books and positions."""
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


def text_rows(lm: LanguageModel, texts: Sequence[str]) -> Rows:
    """A row a text, what exceeds 127 tokens left out."""
    ids: list[list[int]] = lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return padded(lm, [text[: CONTEXT - 1] for text in ids])


def padded(lm: LanguageModel, pieces: Sequence[Sequence[int]]) -> Rows:
    """Rows of the first token and a piece each."""
    ids = padded_ids([[lm.tokenizer.bos_token_id, *piece] for piece in pieces], CONTEXT).numpy()
    place, lengths = np.arange(CONTEXT), np.array([len(piece) for piece in pieces])
    return Rows(ids, (place > 0) & (place <= lengths[:, None]))


def joined(parts: Sequence[Rows], seed: int) -> Rows:
    """All rows in one random order."""
    rows = Rows(np.concatenate([part.ids for part in parts]), np.concatenate([part.used for part in parts]))
    return rows.take(np.random.default_rng(seed).permutation(len(rows.ids)))


def store(lm: LanguageModel, rows: Rows, layers: Sequence[int], folder: Path) -> None:
    """Residuals behind each layer at the used tokens: layer_NN/shard_NNNN.npy [token, d_model], the bits of bfloat16 as NumPy has no such
    type; shards that are there stay."""
    starts = range(0, len(rows.ids), ROWS_OF_A_SHARD)
    for start in tqdm(starts, desc="activations", unit="shard"):
        files = [folder / f"layer_{layer:02d}" / f"shard_{start // ROWS_OF_A_SHARD:04d}.npy" for layer in layers]
        if all(file.exists() for file in files):
            continue
        part = rows.take(np.arange(start, min(start + ROWS_OF_A_SHARD, len(rows.ids))))
        for file, tokens in zip(files, residuals(lm, part, layers, torch.bfloat16), strict=True):
            write_atomically(file, partial(_save, tokens.view(torch.int16).numpy()))


def _save(tokens: np.ndarray, path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, tokens)


def read(folder: Path, layer: int) -> torch.Tensor:
    """What was stored of a layer: bfloat16 [token, d_model]."""
    shards = [np.load(file) for file in sorted((folder / f"layer_{layer:02d}").glob("shard_*.npy"))]
    return torch.from_numpy(np.concatenate(shards)).view(torch.bfloat16)


def residuals(lm: LanguageModel, rows: Rows, layers: Sequence[int], dtype: torch.dtype) -> Float[Tensor, "layer token d_model"]:
    """Residuals behind each layer at the used tokens, row after row."""
    # Filled in place: they take a gigabyte or two, and joining parts would hold them twice.
    filled, stored = 0, torch.empty(len(layers), int(rows.used.sum()), lm.d_model, dtype=dtype)
    for start in range(0, len(rows.ids), ROWS_AT_ONCE):
        ids, used = (torch.from_numpy(part[start : start + ROWS_AT_ONCE]) for part in (rows.ids, rows.used))
        width = 1 + int(used.sum(1).max())
        of_depths = residuals_at(lm, ids[:, :width], [layer + 1 for layer in layers])
        chosen = torch.stack([of_depths[layer + 1][used[:, :width]] for layer in layers])
        if not chosen.isfinite().all():
            raise ValueError("a residual is not finite: nothing was stored of this shard")
        stored[:, filled : filled + chosen.shape[1]] = chosen
        filled += chosen.shape[1]
    return stored
