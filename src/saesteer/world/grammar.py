"""A grammar that writes English-like text with a topic for every token.

A sentence is one clause template filled with the topic's words: drawn by Zipf's law, or, where a word of the clause suggests it, near
that word's partners (verb -> thing -> adjective, place; person -> verb). Neutral openers carry no topic. Every draw adds its -log p to
the sentence's `nats`, so their sum over the tokens bounds the text's entropy from above (two derivations may write the same text).
"""

import bisect
import itertools
import math
import random
from dataclasses import dataclass
from functools import lru_cache

from saesteer.analysis.concepts import NO_TOPIC
from saesteer.world.lexicon import Lexicon, Topic

ALGORITHM_VERSION = 1

PRONOUN = 0.4
WORD_ZIPF, PARTNER_ZIPF, DETERMINER_ZIPF = 0.4, 0.6, 0.8
ADVERB = 0.25
CLOSING = (".", ",", ":")  # written without a space before them

# S: subject, p: person, x: what the person did, v: verb, t and u: things, a and b: their adjectives, l: place, d and e: determiners.
# x and v may bring an adverb along.
ENGLISH = (
    "{S} {v} {d} {t}",
    "{S} {v} {d} {a} {t}",
    "{S} {x} in the {l}",
    "{d} {t} was {a}",
    "there was a {a} {t} in the {l}",
    "{S} {v} {d} {t} and {x}",
    "in the {l} , {S} {v} {d} {t}",
    "{d} {t} and {e} {u} were {b}",
    "{S} {v} {d} {t} because {e} {u} was {b}",
    "when {S} {x} , {d} {t} was {a}",
    "everyone in the {l} wanted {d} {t}",
    "a {p} with a {a} {t} {x}",
    "no {p} {v} {d} {t} without {e} {u}",
    "{d} {a} {t} was near the {l}",
    "{S} {x} before {d} {t} was {a}",
    "nobody saw {d} {a} {t} but the {p} {x}",
    "{d} {t} of the {p} was {a} and {d} {u} was {b}",
    "if {d} {t} was {a} , {S} {x}",
)
DETERMINERS = ("the", "a", "this", "that", "another", "every", "our")
ADVERBS = ("slowly", "quickly", "quietly", "often", "never", "always", "suddenly", "carefully", "finally", "almost", "soon", "again")
FRENCH = (
    "{S} {v} {t}",
    "{S} {x} dans {l}",
    "{t} est {a}",
    "dans {l} , {S} {v} {t}",
    "{S} {v} {t} et {x}",
    "{t} et {u} sont dans {l}",
    "{S} est {a} mais {x}",
)
NUMBERS = (
    "{a} plus {b} is {c}",
    "{c} minus {a} is {b}",
    "{a} times {b} is {c}",
    "{c} is greater than {a}",
    "{a} is an {parity} number",
    "the double of {a} is {c}",
)
CODE = (
    "def {f} ( {x} ) : return {x} + {n}",
    "for {x} in {y} : {f} ( {x} )",
    "if {x} == {n} : return {f} ( {y} )",
    "import {m} as {x}",
    "{x} = {f} ( {y} )",
    "while {x} < {n} : {x} += 1",
    "assert {f} ( {x} ) is not None",
)
DIGITS = tuple("0123456789")
PRONOUNS = {"english": ("he", "she"), "french": ("il", "elle")}


@dataclass(frozen=True)
class Sentence:
    """Words as the tokenizer cuts them (punctuation apart), a topic for each (NO_TOPIC in an opener), and the derivation's -log p."""

    words: tuple[str, ...]
    topics: tuple[int, ...]
    nats: float


class Dice:
    """A random stream that adds up the -log p of what it drew."""

    def __init__(self, rng: random.Random) -> None:
        """Start at 0 nats."""
        self.rng = rng
        self.nats = 0.0

    def zipf(self, n: int, exponent: float) -> int:
        """An index below n, rank r with weight (r + 1) ** -exponent."""
        cumulative, nats = _zipf(n, exponent)
        index = min(bisect.bisect_right(cumulative, self.rng.random()), n - 1)
        self.nats += nats[index]
        return index

    def uniform(self, n: int) -> int:
        """An index below n, all alike."""
        return self.zipf(n, 0.0)

    def flip(self, p: float) -> bool:
        """True with probability p."""
        hit = self.rng.random() < p
        self.nats -= math.log(p if hit else 1 - p)
        return hit


@dataclass
class Scene:
    """What the next sentence of a document takes over from the last one."""

    topic: int
    person: int | None = None


def sentence(lexicon: Lexicon, scene: Scene, opener: float, dice: Dice) -> Sentence:
    """The next sentence of a scene, with a neutral opener at that probability."""
    before = dice.nats
    opening: tuple[str, ...] = ()
    if opener and dice.flip(opener):
        opening = opener_words(lexicon.openers[dice.uniform(len(lexicon.openers))])
    topic = lexicon.topics[scene.topic]
    if topic.name == "numbers":
        clause = (*_number_fact(topic, dice), ".")
    elif topic.name == "code":
        clause = (*_code_line(topic, dice), ".")
    else:
        clause = (*_plain_clause(topic, scene, dice), ".")
    if not opening and topic.name != "code":
        clause = (clause[0].capitalize(), *clause[1:])
    topics = (NO_TOPIC,) * len(opening) + (scene.topic,) * len(clause)
    return Sentence(opening + clause, topics, dice.nats - before)


def single_sentence(lexicon: Lexicon, topic: int, opener: float, rng: random.Random) -> Sentence:
    """One sentence of a given topic, as a document would begin, with a neutral opener at that probability."""
    return sentence(lexicon, Scene(topic), opener, Dice(rng))


def opener_words(opener: str) -> tuple[str, ...]:
    """An opener's words with its comma or colon apart."""
    return tuple(itertools.chain.from_iterable((w[:-1], w[-1]) if w[-1] in CLOSING else (w,) for w in opener.split(" ")))


def join_words(words: tuple[str, ...]) -> str:
    """Write words as text: a space between them, none before closing punctuation."""
    return "".join(word if index == 0 or word in CLOSING else " " + word for index, word in enumerate(words))


@lru_cache
def _zipf(n: int, exponent: float) -> tuple[list[float], list[float]]:
    weights = [(rank + 1) ** -exponent for rank in range(n)]
    total = math.fsum(weights)
    return list(itertools.accumulate(w / total for w in weights)), [-math.log(w / total) for w in weights]


def _plain_clause(topic: Topic, scene: Scene, dice: Dice) -> tuple[str, ...]:
    """Fill a clause template: whom first, then what follows from whom, then what follows from that."""
    french, lists = topic.name == "french", topic.lists
    templates = FRENCH if french else ENGLISH
    template = templates[dice.uniform(len(templates))]
    slots: dict[str, str] = {}
    person: int | None = None
    if "{S}" in template and scene.person is not None and dice.flip(PRONOUN):  # the last sentence's person, as a pronoun
        person = scene.person
        feminine = lists["people"][person].startswith("la ") if french else person % 2
        slots["S"] = PRONOUNS["french" if french else "english"][feminine]
    elif "{S}" in template or "{p}" in template:
        scene.person = person = dice.zipf(len(lists["people"]), WORD_ZIPF)
        slots["p"] = lists["people"][person]
        slots["S"] = slots["p"] if french else f"the {slots['p']}"
    for slot in "de":
        slots[slot] = DETERMINERS[dice.zipf(len(DETERMINERS), DETERMINER_ZIPF)] if f"{{{slot}}}" in template else ""
    if "{x}" in template:
        slots["x"] = _adverb(french, dice) + lists["acts"][_partner(topic, dice, "acts", "people", person)]
    verb = thing = None
    if "{v}" in template:
        verb = _partner(topic, dice, "verbs", "people", person)
        slots["v"] = _adverb(french, dice) + lists["verbs"][verb]
    if "{t}" in template:
        thing = _partner(topic, dice, "things", "verbs", verb)
        slots["t"] = lists["things"][thing]
    if "{a}" in template:
        slots["a"] = lists["adjectives"][_partner(topic, dice, "adjectives", "things", thing)]
    if "{l}" in template:
        slots["l"] = lists["places"][_partner(topic, dice, "places", "things", thing)]
    if "{u}" in template:
        second = _partner(topic, dice, "things", "things", None if thing is None else thing + 1)
        slots["u"] = lists["things"][second]
        slots["b"] = lists["adjectives"][_partner(topic, dice, "adjectives", "things", second)]
    words = template.format(**slots).split()
    return tuple("an" if word == "a" and after[:1] in "aeiou" else word for word, after in zip(words, [*words[1:], "."], strict=True))


def _adverb(french: bool, dice: Dice) -> str:
    """Now and then an English adverb with a space after it."""
    if french or not dice.flip(ADVERB):
        return ""
    return ADVERBS[dice.zipf(len(ADVERBS), WORD_ZIPF)] + " "


def _partner(topic: Topic, dice: Dice, name: str, partners: str, partner: int | None) -> int:
    """An index into the topic's list `name`, near the partner of a word that was drawn from the list `partners`; without one by Zipf's law
    over the whole list."""
    n = len(topic.lists[name])
    if partner is None:
        return dice.zipf(n, WORD_ZIPF)
    start = partner * n // len(topic.lists[partners])
    return (start + dice.zipf(n, PARTNER_ZIPF)) % n


def _number_fact(topic: Topic, dice: Dice) -> tuple[str, ...]:
    """A true statement about numbers up to twenty."""
    names = topic.lists["words"]
    top = len(names) - 1
    template = NUMBERS[dice.uniform(len(NUMBERS))]
    a = dice.uniform(top // 2 + 1)
    if "{parity}" in template:
        return tuple(template.format(a=names[a], parity="odd" if a % 2 else "even").split())
    if "times" in template:
        b = dice.uniform(top // max(a, 2) + 1)
        c = a * b
    else:
        b = a if "double" in template else dice.uniform(top // 2) + 1
        c = a + b
    return tuple(template.format(a=names[a], b=names[b], c=names[c]).split())


def _code_line(topic: Topic, dice: Dice) -> tuple[str, ...]:
    functions, variables, modules = (topic.lists[name] for name in ("functions", "variables", "modules"))
    template = CODE[dice.uniform(len(CODE))]
    function = dice.zipf(len(functions), WORD_ZIPF) if "{f}" in template else None
    variable = _partner(topic, dice, "variables", "functions", function)
    slots = {"x": variables[variable]}
    if function is not None:
        slots["f"] = functions[function]
    if "{y}" in template:
        slots["y"] = variables[_partner(topic, dice, "variables", "variables", variable + 1)]
    if "{m}" in template:
        slots["m"] = modules[_partner(topic, dice, "modules", "variables", variable)]
    if "{n}" in template:
        slots["n"] = DIGITS[dice.zipf(len(DIGITS), WORD_ZIPF)]
    return tuple(template.format(**slots).split())
