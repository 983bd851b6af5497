"""Documents of the grammar, which models are trained on, and the words that they can hold.

A document starts in a topic and leaves it with 6 % chance at each later sentence.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from saesteer.world import grammar
from saesteer.world.grammar import ADVERBS, CLOSING, DETERMINERS, Dice, Scene, Sentence, join_words, opener_words, sentence
from saesteer.world.lexicon import Lexicon

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
        return tuple(itertools.chain.from_iterable(sentence.words for sentence in self.sentences))

    @property
    def topics(self) -> tuple[int, ...]:
        """A topic for each of `words`."""
        return tuple(itertools.chain.from_iterable(sentence.topics for sentence in self.sentences))

    @property
    def text(self) -> str:
        """The document as it is read."""
        return join_words(self.words)

    def fitted(self, n_words: int) -> "Document":
        """As many whole sentences from the start as fit into n_words."""
        lengths = itertools.accumulate(len(sentence.words) for sentence in self.sentences)
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


def vocabulary(lexicon: Lexicon) -> tuple[list[str], list[str]]:
    """(every word that the grammar can write, those of them that can begin a document), sorted."""
    inner: set[str] = {"an", "il", "elle", "he", "she", "even", "odd", *grammar.DIGITS, *DETERMINERS, *ADVERBS}
    for template in (*grammar.ENGLISH, *grammar.FRENCH, *grammar.NUMBERS, *grammar.CODE):
        inner.update(word for word in template.split() if not word.startswith("{"))
    for topic in lexicon.topics:
        inner.update(word for words in topic.lists.values() for phrase in words for word in phrase.split())
    starts = {word.capitalize() for word in (*DETERMINERS, "an", "he", "she", "in", "there", "when", "everyone", "no", "nobody", "if")}
    starts |= {word.capitalize() for word in ("le", "la", "il", "elle", "dans")}
    for topic in lexicon.topics:
        starts.update(word.capitalize() for word in topic.lists.get("words", ()))
        starts.update(topic.lists.get("variables", ()))
    starts |= {template.split()[0] for template in grammar.CODE if not template.startswith("{")}
    for opener in lexicon.openers:
        words = opener_words(opener)
        inner.update(words)
        starts.add(words[0])
    return sorted((inner | starts) - set(CLOSING)), sorted(starts)
