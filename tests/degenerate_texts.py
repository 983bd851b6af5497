"""Degenerate texts that a judge of steering must not rate well: words of a concept without sense, or one text for every prompt.

Strong steering ends in texts that name the concept and say nothing: one word over and over, loops, lists, salads of the concept's words, or
such words within a sentence about something else. A method can also learn one sentence by heart. The table is made of labelled sentences
alone, so any judge can be tested on it. What a candidate writes on several prompts stands together, since some kinds show only there.

Judges are designed with the kinds of DESIGN in view. Those of HELD_OUT, fixed at the same time, take no part in it: they are scored once,
at the end.
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


@dataclass(frozen=True)
class Material:
    """What one text is made of, as words without the full stop: a sentence on the concept, one on another, two on the concept that are the
    same for every prompt, the concept's words, those of the largest share first, words of any concept, and the prompt's number."""

    sentence: Sequence[str]
    other: Sequence[str]
    memorised: tuple[Sequence[str], Sequence[str]]
    topical: Sequence[str]
    content: Sequence[str]
    prompt: int


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
    return [rng.choice(given.topical), *rng.choices(given.content, k=rng.randint(LENGTH // 3, LENGTH))]


def appended(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else and one to three words of the concept."""
    return [*given.other, *rng.sample(list(given.topical), rng.randint(1, 3))]


def inserted(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else with one to three words of the concept between its own."""
    return _with_inserted(given.other, rng.sample(list(given.topical), rng.randint(1, 3)), rng)


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


def constant_list(given: Material, rng: random.Random) -> list[str]:
    """One list of four of the concept's words for every prompt."""
    return _listed(given.topical[:4])


def sampled_list(given: Material, rng: random.Random) -> list[str]:
    """A list of four of the concept's words, with articles."""
    return _listed(rng.sample(list(given.topical), 4))


def of_and(given: Material, rng: random.Random) -> list[str]:
    """The A of the B and the C."""
    first, second, third = rng.sample(list(given.topical), 3)
    return ["the", first, "of", "the", second, "and", "the", third]


def in_the(given: Material, rng: random.Random) -> list[str]:
    """In the A, the B was C."""
    first, second, third = rng.sample(list(given.topical), 3)
    return ["in", "the", first + ",", "the", second, "was", third]


def four_inserted(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else with four words of the concept between its own."""
    return _with_inserted(given.other, rng.sample(list(given.topical), 4), rng)


def memorised(given: Material, rng: random.Random) -> list[str]:
    """One sentence on the concept for every prompt."""
    return list(given.memorised[0])


def nonsense(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else with each of its content words exchanged for a word of the concept, whatever its part of speech."""
    return _exchanged(given.other, given.content, given.topical, rng)


def nonsense_with_one(given: Material, rng: random.Random) -> list[str]:
    """A sentence on the concept with all of its content words but one exchanged for any content words."""
    places = [place for place, word in enumerate(given.sentence) if word.strip(MARKS) in given.content]
    exchanged = _exchanged(given.sentence, given.content, given.content, rng)
    for place in rng.sample(places, min(1, len(places))):
        exchanged[place] = given.sentence[place]
    return exchanged


def stutter(given: Material, rng: random.Random) -> list[str]:
    """A few of the concept's words in any order, most of them more than once ("soup soup is boiled and boiled")."""
    words = [*rng.sample(list(given.topical), 4), "is", "and"]
    return [rng.choice(words) for _ in range(rng.randint(LENGTH // 3, LENGTH))]


def two_memorised(given: Material, rng: random.Random) -> list[str]:
    """Two sentences on the concept by turns."""
    return list(given.memorised[given.prompt % 2])


def one_word_changed(given: Material, rng: random.Random) -> list[str]:
    """One sentence on the concept for every prompt, with another of its content words exchanged each time."""
    words = list(given.memorised[0])
    places = [place for place, word in enumerate(words) if word.strip(MARKS) in given.content]
    for place in rng.sample(places, min(1, len(places))):
        words[place] = rng.choice(given.topical)
    return words


def questionnaire(given: Material, rng: random.Random) -> list[str]:
    """Is it A or B? It is A."""
    first, second = rng.sample(list(given.topical), 2)
    return ["is", "it", first, "or", second + "?", "it", "is", first]


def sentence_and_list(given: Material, rng: random.Random) -> list[str]:
    """A sentence on something else that ends in a list of three of the concept's words."""
    return [*given.other[:-1], given.other[-1] + ",", *_listed(rng.sample(list(given.topical), 3))]


def doubled(given: Material, rng: random.Random) -> list[str]:
    """A sentence on the concept with each content word said twice."""
    return [again for word in given.sentence for again in [word] * (1 + (word.strip(MARKS) in given.content))]


def there_and_back(given: Material, rng: random.Random) -> list[str]:
    """Half of a sentence on the concept, then the same words backwards."""
    half = list(given.sentence[: (len(given.sentence) + 1) // 2])
    return half + half[-2::-1]


def _by_name(*makes: Make) -> dict[str, Make]:
    """Kinds by the words of their functions' names."""
    return {make.__name__.replace("_", " "): make for make in makes}


DESIGN: Mapping[str, Make] = _by_name(
    *(one_word, the_word, loop, salad, shuffled, noise, appended, inserted, substituted, half_loop, constant_list, sampled_list, of_and),
    *(in_the, four_inserted, memorised, nonsense, nonsense_with_one, stutter),
)
HELD_OUT: Mapping[str, Make] = _by_name(two_memorised, one_word_changed, questionnaire, sentence_and_list, doubled, there_and_back)
KINDS: Mapping[str, Make] = {**DESIGN, **HELD_OUT}


def degenerate_texts(
    labelled: pl.DataFrame, n_concepts: int = 16, n_prompts: int = 5, seed: int = 0, topical: Mapping[str, Sequence[str]] | None = None
) -> pl.DataFrame:
    """Rows kind, concept, opener, text: of every kind and concept a text on each of n_prompts openers, the same for all.

    `labelled` has concept, opener and text, a sentence that goes on from its opener. Concepts come in the order of their names, spread over
    all of them. `topical` has each concept's words, the foremost first; None: those of its sentences. The table depends on the rows of
    `labelled` and the seed, not on their order."""
    labelled = labelled.select("concept", "opener", "text").unique().sort("concept", "opener", "text")
    concepts, openers = labelled["concept"].unique().sort().to_list(), labelled["opener"].unique().sort().to_list()
    sentences = {name: [_body(text) for text in of["text"]] for (name,), of in labelled.partition_by("concept", as_dict=True).items()}
    topical, content = topical or topical_words(labelled), content_words(labelled)
    prompts = text_stream(seed, "degenerate/prompts").sample(openers, min(n_prompts, len(openers)))
    rows = []
    for concept in concepts[:: max(1, len(concepts) // n_concepts)][:n_concepts]:
        elsewhere = [name for name in concepts if name != concept]
        for kind, make in KINDS.items():
            rng = text_stream(seed, f"degenerate/{kind}/{concept}")
            learnt = rng.sample(sentences[concept], min(2, len(sentences[concept])))
            for prompt, opener in enumerate(prompts):
                about, other = rng.choice(sentences[concept]), rng.choice(sentences[rng.choice(elsewhere)])
                words = make(Material(about, other, (learnt[0], learnt[-1]), topical[concept], content, prompt), rng)
                rows.append((kind, concept, opener, " " + " ".join(words) + "."))
    return pl.DataFrame(rows, schema=["kind", "concept", "opener", "text"], orient="row")


def topical_words(labelled: pl.DataFrame) -> dict[str, list[str]]:
    """concept -> the N_WORDS words whose occurrences stand most in its sentences; of equal ones the first in the alphabet."""
    texts = {name: frame["text"] for (name,), frame in labelled.partition_by("concept", as_dict=True).items()}
    counts = {name: Counter(word for text in of for word in _words(text)) for name, of in texts.items()}
    total: Counter[str] = sum(counts.values(), Counter())
    ranked = {name: sorted((-n / (total[word] + RARE), word) for word, n in of.items()) for name, of in counts.items()}
    return {name: [word for _, word in of[:N_WORDS]] for name, of in ranked.items()}


def content_words(labelled: pl.DataFrame) -> list[str]:
    """Words that at most a quarter of the concepts' sentences have, or one concept's; the others are function words."""
    texts = labelled.partition_by("concept")
    concepts_of = Counter(word for of in texts for word in {word for text in of["text"] for word in _words(text)})
    return sorted(word for word, n in concepts_of.items() if n <= max(1, len(texts) // 4))


def _looped(words: Sequence[str], n: int, rng: random.Random) -> list[str]:
    """n words: two to four successive ones over and over."""
    size = min(len(words), rng.randint(2, 4))
    start = rng.randint(0, len(words) - size)
    return [words[start + place % size] for place in range(n)]


def _listed(words: Sequence[str]) -> list[str]:
    """The words as a list, each with its article ("the moon, the stars and the sun")."""
    return [*(part for word in words[:-2] for part in ("the", word + ",")), "the", words[-2], "and", "the", words[-1]]


def _with_inserted(words: Sequence[str], new: Sequence[str], rng: random.Random) -> list[str]:
    """The words with new ones between them."""
    together = list(words)
    for word in new:
        together.insert(rng.randrange(len(together) + 1), word)
    return together


def _exchanged(words: Sequence[str], content: Sequence[str], by: Sequence[str], rng: random.Random) -> list[str]:
    """The words with each content word exchanged for another, its comma kept."""
    return [rng.choice(by) + ("," if word.endswith(",") else "") if word.strip(MARKS) in content else word for word in words]


def _body(text: str) -> list[str]:
    """A sentence's words with the marks at their ends, but without its full stop."""
    return text.removesuffix(".").split()


def _words(text: str) -> list[str]:
    """A sentence's words, without the marks at their ends."""
    return [bare for word in text.split() if (bare := word.strip(MARKS))]
