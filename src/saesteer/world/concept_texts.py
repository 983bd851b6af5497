"""Concepts and training texts from the shipped world's grammar, where a topic is a concept, in the form of AxBench's (P4, arXiv 2501.17148,
section 4): half of a concept's texts show it.

Which texts a concept gets depends on the seed and on the concept alone: asking for more of them keeps those that were there.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, count, repeat

import polars as pl

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.core.errors import check_known
from saesteer.core.files import text_id
from saesteer.settings import SettingsError
from saesteer.sources.concept_tables import COMPARED_CONCEPTS, CONCEPT_TEXTS
from saesteer.sources.concept_texts import concept_row, concept_table
from saesteer.world.grammar import join_words, single_sentence
from saesteer.world.lexicon import Lexicon
from saesteer.world.streams import text_stream

ALGORITHM_VERSION = 1

MOST_DRAWS = 200
"""Draws in vain after which a topic counts as having no further sentence."""


def topic_texts(
    lexicon: Lexicon, topics: Sequence[str], openers: Sequence[str], n_positive: int, n_negative: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """COMPARED_CONCEPTS and CONCEPT_TEXTS rows of topics: sentences of the topic, and of all the others that the grammar knows, in turn.

    A text goes on from one of the `openers`, which the caller has cleared of what will be a prompt, and is written as the corpus writes
    it there. No sentence comes twice among a topic's positive texts, nor among its negative ones.
    """
    if not openers:
        raise SettingsError("no neutral opener is left for the training texts: methods.concepts.openers needs lines that are no prompts")
    for topic in topics:
        check_known("topic (methods.concepts.topics)", topic, lexicon.names)
    rows = []
    for topic in topics:
        for positive, n_texts in ((True, n_positive), (False, n_negative)):
            drawn = _sentences(lexicon, lexicon.names.index(topic), positive, openers, seed)
            rows += [concept_row(topic, positive, place, *next(drawn)) for place in range(n_texts)]
    concepts = [{"concept_id": text_id(topic), "concept": topic, "label_feature": None} for topic in topics]
    return concept_table(COMPARED_CONCEPTS, concepts, "topics"), concept_table(CONCEPT_TEXTS, rows, "topics")


def _sentences(lexicon: Lexicon, topic: int, positive: bool, openers: Sequence[str], seed: int) -> Iterator[tuple[str, str]]:
    """Openers, each with a sentence that goes on from it: one stream of them a (seed, topic, positive)."""
    name = lexicon.names[topic]
    rng = text_stream(seed, f"concept texts/{name}/{'positive' if positive else 'negative'}")
    # Every topic but this one comes in a new order again and again, so that none is drawn twice more than another.
    subjects = [topic] if positive else [number for number in range(len(lexicon.topics)) if number != topic]
    turns = repeat(subjects) if positive else (rng.sample(subjects, len(subjects)) for _ in count())
    written: set[str] = set()
    for subject in chain.from_iterable(turns):
        sentence = next((new for _ in range(MOST_DRAWS) if (new := _sentence(lexicon, subject, rng)) not in written), None)
        if sentence is None:
            raise SettingsError(
                f"concept {name!r}: after {len(written)} texts the grammar has no new sentence of topic {lexicon.names[subject]!r}: ask for"
                " fewer texts (methods.n_positive, methods.n_negative)"
            )
        written.add(sentence)
        yield rng.choice(openers), sentence


def _sentence(lexicon: Lexicon, topic: int, rng: random.Random) -> str:
    """A sentence as the grammar writes it after an opener (in lower case), without the opener that it chose."""
    sentence = single_sentence(lexicon, topic, 1.0, rng)
    return join_words(tuple(word for word, of in zip(sentence.words, sentence.topics, strict=True) if of != NO_TOPIC))
