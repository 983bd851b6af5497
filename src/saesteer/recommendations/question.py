"""What `saesteer recommend` is asked, what is refused before anything is computed or written, and prompts that evoke a concept, for
steering away from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import polars as pl

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.core.errors import SettingsError, did_you_mean
from saesteer.core.files import text_id
from saesteer.run import Run
from saesteer.settings import Comparison, NamedConcepts, TopicConcepts
from saesteer.sources.encoding import text_of
from saesteer.sources.prefixes import read_prefixes
from saesteer.steps.judges import judge_of
from saesteer.workflow.checks import check_contents

LONGEST = 100
"""Characters of a concept's name, at most: files are called after it."""
_SENTENCE = re.compile(r".*?[.!?](?=\s)", re.DOTALL)
_N_TOKENS = 8
"""The first tokens of a text, of which at least half have to be of the concept, and none of another one."""
_MOST_WORDS = 30
"""Most words of a first sentence that serves as a prompt."""
_FEWEST_LINES = 4
"""Two that choose and two that report, of which an interval can be given."""


@dataclass(frozen=True)
class RecommendRequest:
    """What is asked: an experiment whose features are scored, a concept, and how much may be computed."""

    name: str
    concept: str
    n_per_layer: int | None
    """Most candidates of a layer; None: N_PER_LAYER, of which the experiment's settings may leave fewer."""
    cores: int
    configfile: Path
    comparison: str | None
    """A comparison of methods on the same model, whose settings and labelled texts serve for prompting and a supervised vector."""
    prompts: Path | None = None
    """For less of the concept: a file of prompts that evoke it, one a line; None: first sentences of the experiment's labelled texts."""
    max_damage: float | None = None
    """Nothing stronger is chosen: the most perplexity, of its texts and of ordinary text, in multiples of the unsteered one. None: the
    strength of the highest score is, and the verdict weighs its damage (`recommendation.damage_limit`)."""
    less: bool = False
    """Whether less of the concept is wanted."""
    words: tuple[str, ...] = ()
    """Texts are rated by how many of these words they have; none: by the experiment's judge or, where it has none, the concept's name."""

    def __post_init__(self) -> None:
        fault = f"has {len(self.concept)} characters" if re.search(r"[^\W_]", self.concept) else "has no word"
        if len(self.concept) > LONGEST or fault == "has no word":
            remedy = f"name it by a word, or a phrase of at most {LONGEST} characters"
            raise SettingsError(f"the concept {self.concept[:20]!r} {fault}: {remedy}")
        if not all(re.search(r"[^\W_]", word) for word in self.words):
            raise SettingsError("--words has an empty word: write those to count with commas between them, e.g. boat,tide,anchor")
        if self.max_damage is not None and not 1 <= self.max_damage < inf:
            raise SettingsError(
                f"--max-damage is {self.max_damage:g}: give a multiple of the unsteered perplexity, 1 or more; 4 is four times as much"
            )


def check_concept(run: Run, question: RecommendRequest) -> None:
    """Refuse a concept that a shipped world's judge does not know, which rates its topics only."""
    concept, judge = question.concept, judge_of(run.steering)
    topics = judge.known_concepts(run) if judge else None
    if not topics or concept in topics or (question.words and not isinstance(run.experiment, Comparison)):
        return
    nearest = _topics_of_texts_with(run, concept, topics)
    near = f" Texts with this word are mostly about {nearest[0]!r}." if nearest else did_you_mean(concept, topics)
    listed = ", ".join(dict.fromkeys([*nearest, *topics]))
    raise SettingsError(
        f"the judge of {run.name} knows its topics only, and {concept!r} is none of them.{near} Topics are {listed}. Any other word takes a"
        " judge of kind embedding (docs/judges.md), or words to count: --words boat,tide,anchor"
    )


def _topics_of_texts_with(run: Run, concept: str, topics: list[str]) -> list[str]:
    """The topics of labelled texts that have the concept's name in them, by how many of their tokens each has."""
    if not isinstance(run.experiment.concepts, TopicConcepts):
        return []
    texts = pl.read_parquet(run.file("texts"), columns=["text", "token_topics"])
    named = texts.filter(pl.col("text").str.contains(rf"(?i)\b{re.escape(concept)}s?\b"))
    numbers = named["token_topics"].explode().drop_nulls().value_counts(sort=True)["token_topics"].to_list()
    return [topics[number] for number in numbers if number != NO_TOPIC]


def with_concept_and_another(source: Run, comparison: Run, question: RecommendRequest) -> dict[str, list[str]]:
    """What `methods.concepts` of a comparison says for the question: its concept and another one; refused where there are no texts of
    it, or its texts are not to be compared with those of the sweep."""
    check_concept(comparison, question)
    of_sweep, of_comparison = (_measured_by(run, question) for run in (source, comparison))
    if others := [section for section, value in of_sweep.items() if value != of_comparison[section]]:
        raise SettingsError(
            f"{comparison.name} has another {others[0]} than {source.name}, so their texts cannot be compared: name a comparison with the"
            f" same section {others[0]} (--comparison)"
        )
    experiment = comparison.comparison
    listed = experiment.methods.concepts
    if not isinstance(listed, NamedConcepts):
        raise SettingsError(f"{comparison.name}: methods.concepts is a published list: take a comparison of kind topics or texts")
    names = (question.concept, next(name for name in listed.names if name != question.concept))
    field = "topics" if listed.kind == "topics" else "names"
    concepts = listed.model_copy(update={field: names})
    check_contents(experiment.model_copy(update={"methods": experiment.methods.model_copy(update={"concepts": concepts})}))
    return {field: list(names)}


def _measured_by(run: Run, question: RecommendRequest) -> dict[str, Any]:
    """Section -> what a text's loss and, where the sweep's judge rates, its rating depend on."""
    experiment, judge = run.steering, judge_of(run.steering)
    measured = {"model": experiment.model, "perplexity": experiment.perplexity}
    if question.words or judge is None:
        return measured
    return measured | {"judge": (judge.settings.kind, getattr(judge.settings, "model", None), judge.rating_values())}


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
