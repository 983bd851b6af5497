"""Which sampled texts ship: English prose without markup, loops and repeats of an earlier text, cut at the end of its last sentence."""

import re
from collections import Counter

import polars as pl

from saesteer.analysis.acceptability import WORD, distinct_bigram_share, function_word_share
from saesteer.core.files import text_id

LEAST_WORDS = 15
LEAST_FUNCTION_WORDS = 0.25
"""Share of English function words; texts in other languages and lists of names have less."""
LEAST_DISTINCT_PAIRS = 0.8
"""Different pairs of neighbouring words over all; loops have less."""
MOST_DIGITS = 0.05
SHINGLE, MOST_SEEN = 5, 0.3
"""A text repeats earlier ones where more than this share of its runs of five words stands in them."""

_MARKUP = re.compile(r"[<>{}\[\]|\\_=#*~^@$]|https?:|www\.|\.com\b|::|->|//|\(\)|\t")
_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
_LATIN = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ]")
_OBSCENE = re.compile(
    r"\b(?:fuck|shit|porn|nude|naked|sex|rape|whore|slut|cunt|bitch|nigg|erotic|penis|vagin|genital|breasts)", re.IGNORECASE
)

REASONS = ("no whole sentence", "few words", "markup", "other scripts", "digits", "other languages and lists", "loops", "obscene")


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence, white space single; "" where none ends."""
    single = re.sub(r"\s+", " ", text).strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(single)]
    return single[: ends[-1]] if ends else ""


def fault(text: str) -> str | None:
    """Which of `REASONS` keeps a text of whole sentences out, the first that holds."""
    words = [word.lower() for word in WORD.findall(text)]
    letters = [character for character in text if character.isalpha()]
    faults = {
        "no whole sentence": not text,
        "few words": len(words) < LEAST_WORDS,
        "markup": bool(_MARKUP.search(text)),
        "other scripts": any(not _LATIN.match(letter) for letter in letters),
        "digits": sum(character.isdigit() for character in text) > MOST_DIGITS * len(text),
        "other languages and lists": (function_word_share(words) or 0.0) < LEAST_FUNCTION_WORDS,
        "loops": distinct_bigram_share(words) < LEAST_DISTINCT_PAIRS or max(Counter(words).values(), default=0) > 0.2 * len(words),
        "obscene": bool(_OBSCENE.search(text)),
    }
    return next((reason for reason in REASONS if faults[reason]), None)


def cleaned(sampled: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """text_id, text and concept of the rows (opening, text, concept) that ship, in order; and how many were left out for which reason."""
    shipped: dict[str, tuple[str, str | None]] = {}
    seen: set[str] = set()
    left_out: Counter[str] = Counter()
    for opening, continuation, concept in sampled.select("opening", "text", "concept").iter_rows():
        text = whole_sentences(opening + continuation)
        words = [word.lower() for word in WORD.findall(text)]
        shingles = {" ".join(words[start : start + SHINGLE]) for start in range(len(words) - SHINGLE + 1)}
        if reason := fault(text):
            left_out[reason] += 1
        elif text_id(text) in shipped or sum(shingle in seen for shingle in shingles) > MOST_SEEN * len(shingles):
            left_out["repeats"] += 1
        else:
            shipped[text_id(text)] = text, concept
        seen |= shingles
    rows = [(key, *shipped[key]) for key in shipped]
    return pl.DataFrame(rows, {"text_id": pl.String, "text": pl.String, "concept": pl.String}, orient="row"), left_out
