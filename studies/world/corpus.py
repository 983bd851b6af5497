"""Texts of the grammar as token rows, each set from its own named stream."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt8, UInt16
from transformers import PreTrainedTokenizerFast

from saesteer.core.files import text_id
from saesteer.world.grammar import NO_TOPIC
from saesteer.world.lexicon import Lexicon
from saesteer.world.streams import text_stream
from studies.world.documents import Document, documents
from studies.world.tokenizer import BOS_ID, CONTEXT, EOS_ID, PAD_ID

TEXTS_SCHEMA: dict[str, Any] = {"text_id": pl.String, "text": pl.String, "token_ids": pl.List(pl.UInt16), "token_topics": pl.List(pl.UInt8)}


@dataclass(frozen=True)
class Corpus:
    """Documents of one stream, cut to whole sentences that fit the context with BOS, and the -log p of their derivations, summed."""

    documents: tuple[Document, ...]
    nats: float

    @property
    def n_tokens(self) -> int:
        """Tokens without BOS."""
        return sum(len(document.words) for document in self.documents)


def word_ids(tokenizer: PreTrainedTokenizerFast, docs: tuple[Document, ...]) -> list[list[int]]:
    """Token ids of each document, BOS first; refuses a document whose words and tokens do not pair up."""
    rows: list[list[int]] = tokenizer([document.text for document in docs])["input_ids"]
    for document, row in zip(docs, rows, strict=True):
        if len(row) != len(document.words) + 1:
            raise ValueError(
                f"{document.text!r} gives {len(row)} tokens for {len(document.words)} words: a word is missing in the tokenizer"
            )
    return rows


def training_rows(
    lexicon: Lexicon, tokenizer: PreTrainedTokenizerFast, seed: int, name: str, n_rows: int
) -> UInt16[np.ndarray, "row context"]:
    """One document a row: BOS, the text, EOS where it ends inside the context, padding."""
    rows = np.full((n_rows, CONTEXT), PAD_ID, dtype=np.uint16)
    stream = documents(lexicon, text_stream(seed, name))
    for start in range(0, n_rows, 4096):
        docs = tuple(islice(stream, min(4096, n_rows - start)))
        for offset, ids in enumerate(word_ids(tokenizer, docs)):
            cut = [*ids, EOS_ID][:CONTEXT]
            rows[start + offset, : len(cut)] = cut
    return rows


def fitted_corpus(lexicon: Lexicon, seed: int, name: str, n_documents: int) -> Corpus:
    """Distinct documents of whole sentences, at most CONTEXT tokens with BOS."""
    fitted: dict[str, Document] = {}
    for document in documents(lexicon, text_stream(seed, name)):
        if len(fitted) == n_documents:
            break
        beginning = document.fitted(CONTEXT - 1)
        fitted.setdefault(beginning.text, beginning)
    docs = tuple(fitted.values())
    return Corpus(docs, sum(sentence.nats for document in docs for sentence in document.sentences))


def padded_rows(tokenizer: PreTrainedTokenizerFast, docs: tuple[Document, ...]) -> UInt16[np.ndarray, "row context"]:
    """Fitted documents as rows with BOS and padding, no EOS."""
    rows = np.full((len(docs), CONTEXT), PAD_ID, dtype=np.uint16)
    for row, ids in zip(rows, word_ids(tokenizer, docs), strict=True):
        row[: len(ids)] = ids
    return rows


def labels(docs: tuple[Document, ...]) -> UInt8[np.ndarray, "row context"]:
    """A topic for each token of `padded_rows`; NO_TOPIC for BOS, openers and padding."""
    topics = np.full((len(docs), CONTEXT), NO_TOPIC, dtype=np.uint8)
    for row, document in zip(topics, docs, strict=True):
        row[1 : len(document.words) + 1] = document.topics
    return topics


def write_texts(path: Path, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> None:
    """The labelled texts as Parquet: text_id, text, token_ids, token_topics."""
    texts = [document.text for document in corpus.documents]
    columns = {
        "text_id": [text_id(text) for text in texts],
        "text": texts,
        "token_ids": word_ids(tokenizer, corpus.documents),
        "token_topics": [[NO_TOPIC, *document.topics] for document in corpus.documents],
    }
    pl.DataFrame(columns, schema=TEXTS_SCHEMA).write_parquet(path, compression="zstd", compression_level=19)


def is_content(rows: UInt16[np.ndarray, "row context"]) -> np.ndarray:
    """[row, context] True where a token is text: neither BOS, EOS nor padding."""
    return ~np.isin(rows, (BOS_ID, EOS_ID, PAD_ID))
