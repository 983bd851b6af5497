"""Degenerate texts that a judge of steering must not rate well: words of a concept without sense, in ten ways.

Strong steering ends in texts that name the concept and say nothing: one word over and over, loops, salads of the concept's words, or
such words within a sentence about something else. The table is made of labelled sentences alone, so any judge can be tested on it.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from saesteer.world.streams import text_stream

N_WORDS = 12
"""Words of a concept that texts are made of."""
RARE = 3.0
"""Added to a word's count when its share in a concept's sentences is taken, so that a word of a single sentence stands below."""
LENGTH = 18
"""Words of the longest texts."""
MARKS = ".,;:!?()[]\"'"
PURE, MIXED = "pure", "mixed"


@dataclass(frozen=True)
class Material:
    """What one text is made of, as words without the full stop: a sentence on the concept, one on another, the concept's words, and all
    words that sentences hold."""

    sentence: Sequence[str]
    other: Sequence[str]
    topical: Sequence[str]
    vocabulary: Sequence[str]


Make = Callable[[Material, random.Random], list[str]]


def one_word(given: Material, rng: random.Random) -> list[str]:
    """A word of the concept over and over."""
    return [rng.choice(given.topical)] * rng.randint(LENGTH // 3, LENGTH)


def the_word(given: Material, rng: random.Random) -> list[str]:
    """The and a word of the concept."""
    return ["the", rng.choice(given.topical)]


def loop(given: Material, rng: random.Random) -> list[str]:
    """Two to four successive words of a sentence on the concept, over and over ("zero is zero is zero")."""
    return _looped(given.sentence, LENGTH, rng)


def salad(given: Material, rng: random.Random) -> list[str]:
    """Different words of the concept."""
    return rng.sample(list(given.topical), min(len(given.topical), rng.randint(6, N_WORDS)))


def shuffled(given: Material, rng: random.Random) -> list[str]:
    """A sentence on the concept in another order."""
    return rng.sample(list(given.sentence), len(given.sentence))


def noise(given: Material, rng: random.Random) -> list[str]:
    """Any words after one of the concept."""
    return [rng.choice(given.topical), *rng.choices(given.vocabulary, k=rng.randint(LENGTH // 3, LENGTH))]


def appended(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else and one to three words of the concept."""
    return [*given.other, *rng.sample(list(given.topical), rng.randint(1, 3))]


def inserted(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else with one to three words of the concept between its own."""
    words = list(given.other)
    for word in rng.sample(list(given.topical), rng.randint(1, 3)):
        words.insert(rng.randrange(len(words) + 1), word)
    return words


def substituted(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else with one to three words of the concept in place of its own."""
    words = list(given.other)
    for place in rng.sample(range(len(words)), min(len(words), rng.randint(1, 3))):
        words[place] = rng.choice(given.topical)
    return words


def half_loop(given: Material, rng: random.Random) -> list[str]:
    """Half of a sentence on the concept, whose end it repeats from there on."""
    half = list(given.sentence[: (len(given.sentence) + 1) // 2])
    return half + _looped(half, LENGTH - min(len(half), LENGTH // 2), rng)


KINDS: Mapping[str, tuple[Make, str]] = {
    "one word": (one_word, PURE),
    "the word": (the_word, PURE),
    "loop": (loop, PURE),
    "salad": (salad, PURE),
    "shuffled": (shuffled, PURE),
    "noise": (noise, PURE),
    "appended": (appended, MIXED),
    "inserted": (inserted, MIXED),
    "substituted": (substituted, MIXED),
    "half loop": (half_loop, MIXED),
}
"""How to make a kind, and whether there is any sentence in it."""

MOST_SCORE = {PURE: 0.25, MIXED: 0.6}
"""Largest mean score (0 to 2) of a kind that a judge may give; fixed before any judge was fitted to such texts."""
MOST_GOOD = 0.05
"""Largest share of the texts with a score of 1 or more."""
LEAST_HONEST = 0.9
"""Smallest mean score of labelled sentences themselves, as a fraction of what the judge gave them when it did not know these kinds."""


def degenerate_texts(labelled: pl.DataFrame, n: int = 200, seed: int = 0) -> pl.DataFrame:
    """n rows kind, concept, opener, text: every kind as often, the concepts in turn.

    `labelled` has concept, opener and text, a sentence that goes on from its opener. The table depends on its rows and the seed, not on
    their order."""
    labelled = labelled.select("concept", "opener", "text").unique().sort("concept", "opener", "text")
    concepts = labelled["concept"].unique().sort().to_list()
    if len(concepts) < 2:
        raise ValueError(f"labelled texts are of {len(concepts)} concept: degenerate texts need those of another one too")
    sentences = {name: frame.rows() for (name,), frame in labelled.partition_by("concept", as_dict=True).items()}
    topical, vocabulary = topical_words(labelled), sorted({word for text in labelled["text"] for word in _words(text)})
    rows = []
    for number in range(n):
        kind, (make, mixture) = list(KINDS.items())[number % len(KINDS)]
        rng = text_stream(seed, f"degenerate/{number}")
        concept = concepts[number // len(KINDS) % len(concepts)]
        _, opener, sentence = rng.choice(sentences[concept])
        _, opener_of_other, other = rng.choice(sentences[rng.choice([name for name in concepts if name != concept])])
        words = make(Material(_words(sentence), _words(other), topical[concept], vocabulary), rng)
        before = opener if mixture == PURE or kind == "half loop" else opener_of_other
        rows.append((kind, concept, before, " " + " ".join(words) + "."))
    return pl.DataFrame(rows, schema=["kind", "concept", "opener", "text"], orient="row")


def topical_words(labelled: pl.DataFrame) -> dict[str, list[str]]:
    """concept -> the N_WORDS words whose occurrences stand most in its sentences; of equal ones the first in the alphabet."""
    texts = {name: frame["text"] for (name,), frame in labelled.partition_by("concept", as_dict=True).items()}
    counts = {name: Counter(word for text in of for word in _words(text)) for name, of in texts.items()}
    total: Counter[str] = sum(counts.values(), Counter())
    ranked = {name: sorted((-n / (total[word] + RARE), word) for word, n in of.items()) for name, of in counts.items()}
    return {name: [word for _, word in of[:N_WORDS]] for name, of in ranked.items()}


def _looped(words: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """n words: two to four successive ones over and over."""
    size = min(len(words), rng.randint(2, 4))
    start = rng.randint(0, len(words) - size)
    return [words[start + place % size] for place in range(n)]


def _words(text: str) -> list[str]:
    """A sentence's words, without the marks at their ends."""
    return [bare for word in text.split() if (bare := word.strip(MARKS))]
