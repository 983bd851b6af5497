"""Residuals of a public model at the layers that get SAEs, on the books' paragraphs and on texts that the models wrote, stored so that SAEs
of several kinds can be trained on the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int64
from tqdm import tqdm

from saesteer.core.files import write_atomically
from saesteer.engine.models import LanguageModel, residuals_at
from studies.public.paragraphs import read_paragraphs

CONTEXT = 128
"""Tokens of a row, its first (the model's beginning-of-sequence token) included."""

ROWS_AT_ONCE = 32
ROWS_OF_A_SHARD = 1024


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


def text_rows(lm: LanguageModel, texts: Sequence[str]) -> Rows:
    """A row a text, what exceeds 127 tokens left out."""
    ids: list[list[int]] = lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return padded(lm, [text[: CONTEXT - 1] for text in ids])


def padded(lm: LanguageModel, pieces: Sequence[Sequence[int]]) -> Rows:
    """Rows of the first token and a piece each."""
    ids = np.full((len(pieces), CONTEXT), lm.tokenizer.bos_token_id, dtype=np.int64)
    used = np.zeros(ids.shape, dtype=bool)
    for row, piece in enumerate(pieces):
        ids[row, 1 : len(piece) + 1] = piece
        used[row, 1 : len(piece) + 1] = True
    return Rows(ids, used)


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
        for file, tokens in zip(files, _residuals(lm, part, layers), strict=True):
            write_atomically(file, partial(_save, tokens))


def _save(tokens: np.ndarray, path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, tokens)


def read(folder: Path, layer: int) -> torch.Tensor:
    """What was stored of a layer: bfloat16 [token, d_model]."""
    shards = [np.load(file) for file in sorted((folder / f"layer_{layer:02d}").glob("shard_*.npy"))]
    return torch.from_numpy(np.concatenate(shards)).view(torch.bfloat16)


@torch.no_grad()
def _residuals(lm: LanguageModel, rows: Rows, layers: Sequence[int]) -> Iterator[np.ndarray]:
    parts: list[list[np.ndarray]] = [[] for _ in layers]
    for start in range(0, len(rows.ids), ROWS_AT_ONCE):
        used = torch.from_numpy(rows.used[start : start + ROWS_AT_ONCE])
        width = 1 + int(used.sum(1).max())
        ids = torch.from_numpy(rows.ids[start : start + ROWS_AT_ONCE, :width])
        of_layers = residuals_at(lm, ids, [layer + 1 for layer in layers])
        for part, layer in zip(parts, layers, strict=True):
            chosen = of_layers[layer + 1][used[:, :width]]
            if not chosen.isfinite().all():
                raise ValueError("a residual is not finite: nothing was stored of this shard")
            part.append(chosen.bfloat16().view(torch.int16).numpy())
    return (np.concatenate(part) for part in parts)
