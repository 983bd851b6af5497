"""Ratings of texts by words, in place of a judge: whether words for the concept are in the text, and whether the text is fluent.

They are on the same scale, 0 to 2, with the same rule against texts that repeat themselves as the shipped worlds' judges. Without a list of
words those of the concept's name count. What a text is about is not known.
"""

import math
import re
from collections.abc import Collection, Sequence

import polars as pl

from saesteer.analysis.acceptability import DISTINCT_BIGRAMS, fluency_by_loss
from saesteer.analysis.candidates import concept_words
from saesteer.analysis.recommendation import FEATURE, UNSTEERED
from saesteer.analysis.score import harmonic_mean

FLUENT = 2.0
"""Most times the unsteered texts' perplexity for a fluency of 2; up to the limit on damage it is 1."""
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def limits(words: Sequence[str]) -> str:
    """What such ratings go by, for the answer."""
    counted = f"the words {', '.join(words)}" if words else "only the words of the concept's name (--words names others)"
    return (
        f"Rated by words, not by a judge: counted are {counted}, whatever the text is about. Add a judge before you rely on it"
        " (docs/judges.md)."
    )


def rated_by_words(texts: pl.DataFrame, concept: str, words: Sequence[str], damage_limit: float) -> pl.DataFrame:
    """Texts (kind, factor, text, mean_nll) with concept_rating, fluency_rating and judge_score, their harmonic mean; null where there is
    no word to rate, or no loss. The rating is 2 of a text with all words of the concept's name, or with two of `words` if these are given,
    1 with fewer of them, 0 with none."""
    of_unsteered = texts.filter(kind=FEATURE, factor=UNSTEERED)["mean_nll"].mean()
    unsteered = math.nan if of_unsteered is None else float(str(of_unsteered))
    cuts = (unsteered + math.log(min(FLUENT, damage_limit)), unsteered + math.log(damage_limit))
    split = [_WORD.findall((text or "").lower()) for text in texts["text"]]
    counted = {word.lower() for word in words} or concept_words(concept)
    concepts = [_concept_rating(said, counted, min(2, len(words)) or len(counted)) for said in split]
    fluency = [_fluency(cuts, said, loss) for said, loss in zip(split, texts["mean_nll"].to_list(), strict=True)]
    rated = texts.with_columns(concept_rating=pl.Series(concepts, dtype=pl.UInt8), fluency_rating=pl.Series(fluency, dtype=pl.UInt8))
    return rated.with_columns(judge_score=harmonic_mean(["concept_rating", "fluency_rating"]))


def _concept_rating(said: Sequence[str], counted: Collection[str], n_of_all: int) -> int | None:
    """2 where `n_of_all` of the words, or phrases, are among a text's words (also with an s at the end), 1 where fewer are, else 0; None of
    a text without words."""
    text = f" {' '.join(said)} "
    n = sum(f" {word} " in text or f" {word}s " in text for word in counted)
    return (2 if n >= n_of_all else min(n, 1)) if said else None


def _fluency(cuts: tuple[float, float], words: Sequence[str], mean_nll: float | None) -> int | None:
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return fluency_by_loss(cuts, DISTINCT_BIGRAMS, [numbers[word] for word in words], mean_nll)
