"""Prompts that evoke a concept, for steering away from it."""

import re
from pathlib import Path

import polars as pl

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.core.errors import SettingsError
from saesteer.core.files import text_id
from saesteer.core.names import did_you_mean
from saesteer.run import Run
from saesteer.settings import TopicConcepts
from saesteer.sources.encoding import text_of
from saesteer.sources.prefixes import read_prefixes

_SENTENCE = re.compile(r".*?[.!?](?=\s)", re.DOTALL)
_N_TOKENS = 8
"""The first tokens of a text, of which at least half have to be of the concept, and none of another one."""
_MOST_WORDS = 30
"""Of a first sentence that serves as a prompt."""
_FEWEST_LINES = 4
"""Two that choose and two that report, of which an interval can be given."""


def evoking_prompts(run: Run, concept: str, file: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """prefix_id -> prompt of as many as the experiment has, and of those left over: first sentences of the experiment's texts that are
    about the concept by their labels. Or the lines of a file, which leaves none over."""
    if file is not None:
        if not file.is_file():
            raise SettingsError(f"there is no file {file}: name one with prompts that evoke {concept!r}, one a line")
        prompts = read_prefixes(file, len(text_of(file).splitlines()))
        if len(prompts) < _FEWEST_LINES:
            raise SettingsError(
                f"{file} has {len(prompts)} prompts: {_FEWEST_LINES} at least are needed, of which every other chooses, and the rest report"
            )
        return prompts, {}
    topics, n_prompts = run.topics() if isinstance(run.experiment.concepts, TopicConcepts) else [], run.sweep.sweep.n_prefixes
    if concept not in topics:
        raise SettingsError(
            f"no texts of {run.name} are labelled {concept!r}.{did_you_mean(concept, topics)} Name a file of prompts that evoke it, one a"
            " line (--prompts)"
        )
    texts = pl.read_parquet(run.file("texts"), columns=["text", "token_topics"])
    sentences = [(text_id(sentence), sentence) for sentence in beginnings(texts, topics.index(concept))]
    if len(sentences) < n_prompts:
        raise SettingsError(
            f"{len(sentences)} texts of {run.name} begin with {concept!r}, but sweep.n_prefixes is {n_prompts}: lower it, or name a file of"
            " prompts (--prompts)"
        )
    return dict(sentences[:n_prompts]), dict(sentences[n_prompts:])


def beginnings(texts: pl.DataFrame, topic: int) -> list[str]:
    """The distinct short first sentences of texts that begin with a topic and go on, in their order. texts: text, token_topics (numbers of
    topics, or NO_TOPIC)."""
    begin = pl.col("token_topics").list.head(_N_TOKENS)
    of_topic, unlabelled = (begin.list.count_matches(number) for number in (topic, NO_TOPIC))
    about = texts.filter(of_topic >= _N_TOKENS // 2, of_topic + unlabelled == begin.list.len())
    sentences = (sentence[0].split() for text in about["text"] if (sentence := _SENTENCE.match(text)))
    return list(dict.fromkeys(" ".join(words) for words in sentences if len(words) <= _MOST_WORDS))
