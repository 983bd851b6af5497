"""What the books' model writes itself: a corpus labelled by the judge, and labelled sentences to learn from, so that the repository
needs no text of the books."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.core.files import text_id
from saesteer.world.books.judge import TextJudge, split_words, topic_posterior, word_ids
from saesteer.world.streams import stream_seed
from studies.books.paragraphs import sentences
from studies.world.corpus import TEXTS_SCHEMA
from studies.world.tokenizer import BOS_ID

RUN_OF_WORDS = 8
"""A run of words that a text shares with a book counts as copied."""
MOST_COPIED = 0.5
"""Largest share of a text's runs of words that may be copied."""
LEAST_WORDS = 6
"""Words of a labelled sentence."""
SURE = 0.5
"""A text is labelled with the topic whose probability exceeds this."""
OPENING = "The"
"""Every text of the corpus begins with this and a telling word of some topic."""
N_TELLING, LEAST_TELLING = 20, 0.25
"""Telling words of a topic: so many, of each at least this share of its uses on the topic, were all topics as frequent."""


@dataclass(frozen=True)
class SampleRecipe:
    """How the model's own texts are drawn."""

    texts: int = 4750
    tokens: int = 127
    temperature: float = 0.8
    batch: int = 250


def topical_starts(judge: TextJudge, tokenizer: PreTrainedTokenizerFast, n: int) -> list[list[int]]:
    """n starts of texts, the topics in turn and each topic's telling words in turn: left to itself the model writes ten times as much on
    some topics as on others, and a topic of few texts could hardly label a feature."""
    topics = cycle([cycle(words) for words in telling_words(judge, tokenizer)])
    starts: list[list[int]] = tokenizer([f"{OPENING} {next(next(topics))}" for _ in range(n)], add_special_tokens=False)["input_ids"]
    return starts


def telling_words(judge: TextJudge, tokenizer: PreTrainedTokenizerFast) -> list[list[str]]:
    """[topic][word]: of the words that are a token and stand out on the topic, the most frequent there."""
    pieces = tokenizer.get_vocab()
    whole = [(word, number) for word, number in judge.words.items() if f"▁{word}" in pieces]
    share = np.exp(judge.log_likelihood[:, [number for _, number in whole]])  # [topic word]
    frequency = np.where(share >= LEAST_TELLING * share.sum(0), share, 0.0)
    return [[whole[place][0] for place in np.argsort(-row, kind="stable")[:N_TELLING] if row[place]] for row in frequency]


def sampled_texts(
    model: PreTrainedModel, starts: Sequence[Sequence[int]], recipe: SampleRecipe, seed: int, name: str
) -> Iterator[list[int]]:
    """A continuation of each start (all as long), with the start, without BOS; sampled from the whole vocabulary."""
    for first in tqdm(range(0, len(starts), recipe.batch), desc=name, unit="batch"):
        prompts = torch.tensor([[BOS_ID, *start] for start in starts[first : first + recipe.batch]])
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(stream_seed(seed, f"{name}/{first}"))
            output: Int[Tensor, "row token"] = model.generate(
                prompts, max_new_tokens=recipe.tokens - prompts.shape[1] + 1, do_sample=True, temperature=recipe.temperature, top_k=0
            )
        yield from output[:, 1:].tolist()


def labelled_texts(texts: Iterable[Sequence[int]], tokenizer: PreTrainedTokenizerFast, judge: TextJudge) -> pl.DataFrame:
    """Rows of TEXTS_SCHEMA: each text whole, every token with the text's topic, or none where the judge is not sure; no text twice."""
    rows = []
    for ids in texts:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        topic, sure = likeliest(judge, text)
        topic = topic if sure > SURE else NO_TOPIC
        if tokenizer(text)["input_ids"][1:] == list(ids):  # what max-activating examples say must be what the model read
            rows.append((text_id(text), text, [BOS_ID, *ids], [NO_TOPIC] + [topic] * len(ids)))
    return pl.DataFrame(rows, schema=TEXTS_SCHEMA, orient="row").unique("text_id", maintain_order=True)


def book_texts(
    paragraphs: pl.DataFrame, topics: Sequence[str], tokenizer: PreTrainedTokenizerFast, n: int, tokens: int, seed: int
) -> pl.DataFrame:
    """Rows of TEXTS_SCHEMA: beginnings of paragraphs of the books, as many of each topic, every token with the book's topic."""
    rows = []
    for number, topic in enumerate(topics):
        of_topic = paragraphs.filter(topic=topic).sample(fraction=1.0, shuffle=True, seed=stream_seed(seed, f"book_texts/{topic}") % 2**32)
        beginnings: list[tuple[str, list[int]]] = []
        for paragraph in of_topic["text"]:
            if len(beginnings) == n // len(topics):
                break
            ids: list[int] = tokenizer(paragraph)["input_ids"][: tokens + 1]
            text = tokenizer.decode(ids, skip_special_tokens=True)
            if len(ids) > tokens // 2 and tokenizer(text)["input_ids"] == ids:  # long enough, and read as it is once it is cut
                beginnings.append((text, ids))
        rows += [(text_id(text), text, ids, [NO_TOPIC] + [number] * (len(ids) - 1)) for text, ids in beginnings]
    return pl.DataFrame(rows, schema=TEXTS_SCHEMA, orient="row").unique("text_id", maintain_order=True)


def likeliest(judge: TextJudge, text: str) -> tuple[int, float]:
    """The text's likeliest topic, and its probability."""
    (ids,) = word_ids(judge, [text])
    posterior = topic_posterior(judge, ids)
    return int(posterior.argmax()), float(posterior.max())


def copied_shares(texts: Sequence[str], books: Iterable[str]) -> list[float]:
    """Share of each text's runs of words that stand in a book; 0 for a text shorter than a run."""
    runs_of_texts = [set(word_runs(text)) for text in texts]
    every = set().union(*runs_of_texts)
    copied = {run for book in books for run in word_runs(book) if run in every}
    return [len(runs & copied) / len(runs) if runs else 0.0 for runs in runs_of_texts]


def word_runs(text: str) -> list[str]:
    """The text's runs of RUN_OF_WORDS words, case, digits and marks left out."""
    words = split_words(text)
    return [" ".join(words[start : start + RUN_OF_WORDS]) for start in range(len(words) - RUN_OF_WORDS + 1)]


def first_sentences(texts: Iterable[str], opener: str, judge: TextJudge) -> Iterator[tuple[str, str, int, float]]:
    """(opener, sentence, topic, its probability) of texts that begin with the opener: the rest of the first sentence, where it is whole and
    not short."""
    for text in texts:
        sentence = sentences(text)[0][len(opener) :].strip()
        if len(sentence.split()) >= LEAST_WORDS and sentence.endswith("."):
            yield opener, sentence, *likeliest(judge, sentence)


def best_by_topic(drawn: Iterable[tuple[str, str, int, float]], topics: Sequence[str], n: int) -> pl.DataFrame:
    """concept (a topic), opener, text: the n sentences of each topic that the judge is surest of, none twice."""
    frame = pl.DataFrame(list(drawn), schema={"opener": pl.String, "text": pl.String, "number": pl.Int64, "sure": pl.Float64}, orient="row")
    surest = frame.unique("text", keep="first", maintain_order=True).sort("sure", descending=True, maintain_order=True)
    surest = surest.group_by("number", maintain_order=True).head(n).sort("number", maintain_order=True)
    names = pl.Series("concept", [topics[number] for number in surest["number"]], dtype=pl.String)
    return surest.select(names, "opener", "text")


def shares_of_topics(texts: pl.DataFrame, topics: Sequence[str]) -> dict[str, int]:
    """How many texts carry each topic, and how many none."""
    numbers = texts["token_topics"].list.last().to_numpy()
    return {name: int((numbers == number).sum()) for number, name in enumerate(topics)} | {"none": int(np.sum(numbers == NO_TOPIC))}
