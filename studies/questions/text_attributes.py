"""What a text has or lacks by the words in it, whatever its topic: question or statement, tense, person, formality."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import polars as pl

from saesteer.core.uncertainty import random_stream

ATTRIBUTES: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "question": "?",
        "direct speech": '" “ ”',
        "first person": "i me my mine myself we us our ours ourselves",
        "second person": "you your yours yourself yourselves",
        "third person": "he him his himself she her hers herself",
        "past": "was were had did",
        "present": "is are am has does",
        "negation": "no not never none nor nobody nothing neither without cannot n't",
        "subordinate clause": "because when before if although though unless until while since",
        "formal words": "thus hence therefore moreover nevertheless consequently accordingly furthermore whereas thereby hitherto",
        "contractions": "n't 'll 've 're",
    }.items()
}
"""Attribute -> the words (see `words_of`) of which a text with it has at least one. Tenses are those of forms of to be, have and do that
can stand for one tense alone; formality is by connectives of formal prose, and by contractions for the contrary."""
_WORD = re.compile(r"""n't\b|[a-z]+(?=n't\b)|'(?:ll|ve|re)\b|[a-z]+|[?"“”]""")


def words_of(text: str) -> set[str]:
    """Its words in lower case, contractions taken apart ("don't" is do and n't), its question marks and its quotation marks."""
    return set(_WORD.findall(text.lower().replace("’", "'")))


def has(attribute: str, text: str) -> bool:
    """Whether the text has one of the attribute's words."""
    return not ATTRIBUTES[attribute].isdisjoint(words_of(text))


def paired(stretches: pl.DataFrame, attribute: str, n: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Up to n stretches of text (columns text and concept) with the attribute and as many without it, in a fixed random order: pairs of the
    same topic, so that no topic tells them apart."""
    shuffled = stretches[random_stream(0, "attributes", attribute).permutation(stretches.height).tolist()]
    is_having = pl.Series("is_having", [has(attribute, text) for text in shuffled["text"]], dtype=pl.Boolean)
    numbered = shuffled.with_columns(is_having).with_columns(number=pl.int_range(pl.len()).over("concept", "is_having"))
    having, lacking = (numbered.filter(pl.col("is_having") == which) for which in (True, False))
    keys: Sequence[str] = ("concept", "number")
    pairs = having.join(lacking.select(keys), on=keys, how="semi", maintain_order="left").head(n).select(keys)
    first, second = (pairs.join(group, on=keys, maintain_order="left") for group in (having, lacking))
    return first, second
