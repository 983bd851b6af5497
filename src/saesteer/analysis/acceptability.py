"""Whether a text is acceptable as language, whatever it is about: what judges that count have in common.

Strong steering ends in words of a concept without sense (tests/degenerate_texts.py): loops, lists, words within sentences about something
else. A language model expects what repeats itself, and lists. So the loss, the share of function words and what the order of the content
words is worth each have to lie where those of unsteered texts do, and most pairs of successive words have to differ.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int

ALGORITHM_VERSION = 1

DISTINCT_BIGRAMS = 0.8
"""Smallest share of distinct pairs of successive words for a fluency above 0; the fitted ones of the shipped worlds are .82 and .86."""
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
"""A word of a text."""
_CLOSED_CLASSES = """
a about above after again against all almost also although always am among an and another any anybody anyone anything are around as at
away be became because become been before behind below beside besides between beyond both but by can cannot could did do does doing
done down during each either else enough even ever every everybody everyone everything except few for from further had has have having
he hence her here hers herself him himself his how however i if in indeed instead into is it its itself just least less like many may
me might mine more moreover most much must my myself near neither never nevertheless no nobody none nor not nothing now of off often
on once one only onto or other others ought our ours ourselves out over own perhaps quite rather same several shall she should since
so some somebody someone something soon still such than that the their theirs them themselves then there therefore these they this
those though through throughout thus till to together too toward towards under unless until up upon us very was we were what whatever
when whenever where whereas wherever whether which while who whoever whole whom whose why will with within without would yes yet you
your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_CLOSED_CLASSES.split())
"""The closed classes of English. What has an apostrophe ("don't", "he's") counts by its part before it."""


@dataclass(frozen=True)
class Acceptable:
    """Where the measures of acceptable texts lie."""

    nats: tuple[float, float]
    """The loss of nine of ten, in nats per token."""
    most_nats: float
    """A text of larger loss has no fluency."""
    function_shares: tuple[float, float]
    """The share of function words in nine of ten."""
    order_nats: float
    """What the order of the content words is worth, in nats per token, in 19 of 20 or more."""
    distinct_bigrams: float
    """Smallest share of distinct pairs of successive tokens or words that a fluency above 0 takes."""


def fluency(cuts: Acceptable, distinct: float, mean_nll: float | None, function: float | None, order: float | None) -> int | None:
    """By a text's share of distinct pairs, mean loss (nats per token), share of function words and what its order is worth: 2 where all are
    as in acceptable texts, one less for each that is not; 0 also where the loss is larger than the largest allowed, or too few pairs are
    distinct. None where the loss is undefined; what else is None is not asked for."""
    if mean_nll is None or not math.isfinite(mean_nll):
        return None
    if mean_nll > cuts.most_nats or distinct < cuts.distinct_bigrams:
        return 0
    unlike = (
        not cuts.nats[0] <= mean_nll <= cuts.nats[1],
        function is not None and not cuts.function_shares[0] <= function <= cuts.function_shares[1],
        order is not None and not order >= cuts.order_nats,
    )
    return max(0, 2 - sum(unlike))


def fluency_by_loss(
    cuts: tuple[float, float], distinct_bigrams: float, ids: Sequence[int] | Sequence[str], mean_nll: float | None
) -> int | None:
    """By a text's mean loss (nats per token) alone: 2 up to the first cut, 1 up to the second, else 0; 0 also where less than
    `distinct_bigrams` of its pairs of successive ids or words are distinct. None where the loss is undefined."""
    if mean_nll is None or not math.isfinite(mean_nll):
        return None
    return 0 if distinct_bigram_share(ids) < distinct_bigrams else sum(mean_nll <= cut for cut in cuts)


def distinct_bigram_share(ids: Sequence[int] | Sequence[str]) -> float:
    """Distinct pairs of successive ids or words over all of them (distinct-2; Li et al., arXiv 1510.03055); 1 where there is no pair."""
    pairs = list(pairwise(ids))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def moved_on(places: Int[np.ndarray, " place"]) -> Int[np.ndarray, "shift place"]:
    """What stands at each place when all have moved on by 1, 2, ... places in a circle, but for the whole one; the text itself first."""
    return np.array([np.roll(places, shift) for shift in range(len(places))])


def is_function_word(word: str) -> bool:
    """Whether an English word is a function word, in any case."""
    return re.split("['’]", word.lower())[0] in FUNCTION_WORDS


def has_content(text: str) -> bool:
    """Whether an English text has a word that is no function word."""
    return any(not is_function_word(word) for word in WORD.findall(text))


def function_word_share(words: Sequence[str]) -> float | None:
    """Share of English function words; None where there is no word."""
    return sum(map(is_function_word, words)) / len(words) if words else None


def with_words_moved(text: str, n: int) -> list[str]:
    """At most n versions of an English text in which the words that are no function words have moved on among their places, by different
    numbers of them; none where there are fewer than two such words."""
    spans = [match.span() for match in WORD.finditer(text) if not is_function_word(match[0])]
    shifts = sorted({len(spans) * (number + 1) // (n + 1) for number in range(n)} - {0})
    return [_moved(text, spans, shift) for shift in shifts] if len(spans) > 1 else []


def _moved(text: str, spans: Sequence[tuple[int, int]], shift: int) -> str:
    """The text with what stands at each span exchanged for what stands `shift` spans before it."""
    words = [text[start:end] for start, end in spans]
    parts, at = list[str](), 0
    for number, (start, end) in enumerate(spans):
        parts += [text[at:start], words[number - shift]]
        at = end
    return "".join([*parts, text[at:]])
