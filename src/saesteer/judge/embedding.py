"""Vectors of texts by a sentence-embedding model: an encoder of the transformers library, on the processor and in float32.

Texts of one length in tokens run together, so none is padded, on one thread and never on fewer than MIN_ROWS rows of tokens: a text's
vector is the same to the bit in any company. Several threads share a product's rows out by their number, and kernels differ with that.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoModel

from saesteer.engine.finite import check_finite
from saesteer.engine.models import MIN_ROWS
from saesteer.engine.weights import check_readable, load_tokenizer, whole_model
from saesteer.sources.embedding_model import TextPooling, text_pooling

ALGORITHM_VERSION = 1

TOKENS_AT_ONCE = 4096
"""Most tokens of a forward."""

MOST_KNOWN = 200_000
"""Texts whose vectors are held: a third of a gigabyte at 384 numbers each."""


@dataclass(frozen=True)
class SentenceEmbedder:
    """An encoder with its tokenizer, and how its tokens' vectors become a text's."""

    model: Any
    tokenizer: Any
    pooling: TextPooling
    known: dict[str, Float[np.ndarray, " width"]] = field(default_factory=dict)
    """Vectors of texts that were asked for before."""

    @property
    def max_tokens(self) -> int:
        """The longest text that it reads; of a longer one the beginning."""
        most = (self.pooling.max_tokens, self.model.config.max_position_embeddings, self.tokenizer.model_max_length)
        return min(number for number in most if number)

    def vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "text width"]:
        """The vector of length 1 of each text."""
        if len(self.known) > MOST_KNOWN:
            self.known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        ids = self.tokenizer(new, truncation=True, max_length=self.max_tokens)["input_ids"] if new else []
        of_length: defaultdict[int, list[int]] = defaultdict(list)
        for place, tokens in enumerate(ids):
            of_length[len(tokens)].append(place)
        with _one_thread():
            for length, places in of_length.items():
                size = max(1, TOKENS_AT_ONCE // length)
                for start in range(0, len(places), size):
                    part = places[start : start + size]
                    self.known.update(zip((new[place] for place in part), self._pooled([ids[place] for place in part]), strict=True))
        return np.stack([self.known[text] for text in texts]) if texts else np.zeros((0, self.model.config.hidden_size), np.float32)

    @torch.no_grad()
    def _pooled(self, ids: Sequence[Sequence[int]]) -> Float[np.ndarray, "text width"]:
        """Vectors of texts of one length."""
        rows = torch.tensor([*ids, *[ids[0]] * (-(-MIN_ROWS // len(ids[0])) - len(ids))])
        hidden = self.model(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state[: len(ids)]  # [text, token, width]
        check_finite("vectors of texts are", hidden, next(self.model.parameters()))
        vectors = hidden.double().mean(dim=1) if self.pooling.mode == "mean" else hidden[:, 0].double()
        return (vectors / vectors.norm(dim=1, keepdim=True)).float().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_embedder(folder: Path) -> SentenceEmbedder:
    """A sentence-embedding model from its folder (safetensors only, nothing fetched), refused by name where its files are damaged."""
    pooling = text_pooling(folder)
    check_readable(folder)
    model = whole_model(AutoModel, folder, optional=("pooler.",), dtype=torch.float32)
    return SentenceEmbedder(model.eval().requires_grad_(False), load_tokenizer(folder), pooling)
