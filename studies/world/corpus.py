"""Texts of the grammar, which models are trained on, and their token rows; each set of texts is from its own named stream.

A document starts in a topic and leaves it with 6 % chance at each later sentence.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import UInt8, UInt16
from transformers import PreTrainedTokenizerFast

from saesteer.core.files import text_id
from saesteer.world.grammar import NO_TOPIC, Dice, Scene, Sentence, join_words, sentence
from saesteer.world.lexicon import Lexicon
from saesteer.world.streams import text_stream
from studies.world.tokenizer import BOS_ID, CONTEXT, EOS_ID, PAD_ID

TEXTS_SCHEMA: dict[str, Any] = {"text_id": pl.String, "text": pl.String, "token_ids": pl.List(pl.UInt16), "token_topics": pl.List(pl.UInt8)}
SWITCH_TOPIC = 0.06
OPENER_FIRST, OPENER_LATER = 0.30, 0.08
SENTENCES = (3, 9)


@dataclass(frozen=True)
class Document:
    """A few sentences, mostly of one topic."""

    sentences: tuple[Sentence, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """All sentences' words."""
        return tuple(chain.from_iterable(sentence.words for sentence in self.sentences))

    @property
    def topics(self) -> tuple[int, ...]:
        """A topic for each of `words`."""
        return tuple(chain.from_iterable(sentence.topics for sentence in self.sentences))

    @property
    def text(self) -> str:
        """The document as it is read."""
        return join_words(self.words)

    def fitted(self, n_words: int) -> "Document":
        """As many whole sentences from the start as fit into n_words."""
        lengths = accumulate(len(sentence.words) for sentence in self.sentences)
        return Document(tuple(s for s, end in zip(self.sentences, lengths, strict=True) if end <= n_words))


def document(lexicon: Lexicon, rng: random.Random) -> Document:
    """Draw one document of 3 to 9 sentences."""
    dice = Dice(rng)
    scene = Scene(dice.uniform(len(lexicon.topics)))
    low, high = SENTENCES
    n_sentences = low + dice.uniform(high - low + 1)
    sentences = []
    for position in range(n_sentences):
        if position and dice.flip(SWITCH_TOPIC):
            scene.topic = (scene.topic + 1 + dice.uniform(len(lexicon.topics) - 1)) % len(lexicon.topics)
            scene.person = None
        sentences.append(sentence(lexicon, scene, OPENER_LATER if position else OPENER_FIRST, dice))
    return Document(tuple(sentences))


def documents(lexicon: Lexicon, rng: random.Random) -> Iterator[Document]:
    """Documents without end."""
    while True:
        yield document(lexicon, rng)


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
    docs = tuple(islice(documents(lexicon, text_stream(seed, name)), n_rows))
    return _padded([[*ids, EOS_ID] for ids in word_ids(tokenizer, docs)])


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
    return _padded(word_ids(tokenizer, docs))


def _padded(texts: Sequence[Sequence[int]]) -> UInt16[np.ndarray, "row context"]:
    rows = np.full((len(texts), CONTEXT), PAD_ID, dtype=np.uint16)
    for row, ids in zip(rows, texts, strict=True):
        row[: len(ids)] = ids[:CONTEXT]
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
