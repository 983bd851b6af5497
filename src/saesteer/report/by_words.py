"""Ratings of texts by words, where an experiment has no judge: whether the concept's name is in the text, and whether the text is fluent.

It is a stand-in for a judge, on the same scale, 0 to 2, with the same rule against texts that repeat themselves as the shipped worlds'
judges. It knows no other word for the concept, and not what a text is about.
"""

import math
import re
from collections.abc import Sequence

import polars as pl

from saesteer.analysis.acceptability import DISTINCT_BIGRAMS, fluency_by_loss
from saesteer.analysis.recommendation import FEATURE, UNSTEERED, concept_words
from saesteer.analysis.score import harmonic_mean

FLUENT = 2.0
"""Most times the unsteered texts' perplexity for a fluency of 2; up to the limit on damage it is 1."""
LIMITS = (
    "Rated by words, not by a judge: a text is about the concept if the words of its name are in it, also where it only names it; other"
    " words for the concept do not count. Add a judge before you rely on it (docs/judges.md)."
)
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def rated_by_words(texts: pl.DataFrame, concept: str, damage_limit: float) -> pl.DataFrame:
    """Texts (kind, factor, text, mean_nll) with concept_rating, fluency_rating and judge_score, their harmonic mean; null where there is
    no word to rate, or no loss."""
    of_unsteered = texts.filter(kind=FEATURE, factor=UNSTEERED)["mean_nll"].mean()
    unsteered = math.nan if of_unsteered is None else float(str(of_unsteered))
    cuts = (unsteered + math.log(min(FLUENT, damage_limit)), unsteered + math.log(damage_limit))
    split = [_WORD.findall((text or "").lower()) for text in texts["text"]]
    concepts = [concept_rating(words, concept) for words in split]
    fluency = [_fluency(cuts, words, loss) for words, loss in zip(split, texts["mean_nll"].to_list(), strict=True)]
    rated = texts.with_columns(concept_rating=pl.Series(concepts, dtype=pl.UInt8), fluency_rating=pl.Series(fluency, dtype=pl.UInt8))
    return rated.with_columns(judge_score=harmonic_mean(["concept_rating", "fluency_rating"]))


def concept_rating(words: Sequence[str], concept: str) -> int | None:
    """2 where all words of the concept's name are among a text's words (also with an s at the end), 1 where some are, else 0; None of a
    text without words."""
    if not words:
        return None
    has = [bool({name, f"{name}s"} & {*words}) for name in concept_words(concept)]
    return 2 * all(has) or int(any(has))


def _fluency(cuts: tuple[float, float], words: Sequence[str], mean_nll: float | None) -> int | None:
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return fluency_by_loss(cuts, DISTINCT_BIGRAMS, [numbers[word] for word in words], mean_nll)
