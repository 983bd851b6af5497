"""The judge of natural text: which topic a whole text is about, by naive Bayes over its words, and how well a second model expects it.

P1 and AxBench (arXiv 2505.20063, 2501.17148) have a language model rate concept and fluency from 0 to 2. Here the concept rating is
read off P(topic | text). A word of natural text says little on its own, and words lean on one another, so that plain naive Bayes is far
too sure: log-likelihoods are multiplied by `sharpness`, fitted on books that the classifier never saw.

Strong steering ends in words of the topic without sense (tests/degenerate_texts.py). So a word counts once, however often it stands in the
text, and the `left_out` words that speak most for the topic do not count: a few words put into a text about something else are not what it
is about. A text that repeats itself has no fluency, by the rule of `fluency_by_loss`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file
from scipy.special import expit, logsumexp, softmax

from saesteer.analysis.acceptability import fluency_by_loss

ALGORITHM_VERSION = 2

WEIGHTS, WORDS, SETTINGS = "classifier.safetensors", "words.txt", "text_judge.json"
PAIRS = ("concept_cuts", "fluency_nats")
NUMBERS = ("sharpness", "left_out", "distinct_bigrams")
_WORD = re.compile("[a-z]+")


@dataclass(frozen=True, eq=False)
class TextJudge:
    """A topic classifier of whole texts and the cuts of both ratings: (1 from here, 2 from here) for the topic's probability, (2 up to
    here, 1 up to here) for the loss, and the smallest share of distinct pairs of successive words."""

    words: Mapping[str, int]
    log_likelihood: Float[np.ndarray, "topic word"]
    sharpness: float
    left_out: int
    concept_cuts: tuple[float, float]
    fluency_nats: tuple[float, float]
    distinct_bigrams: float


def load_text_judge(folder: Path) -> TextJudge:
    """Read classifier.safetensors, words.txt and text_judge.json."""
    cuts: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    weights = load_file(folder / WEIGHTS)["log_likelihood"].astype(np.float32)
    words = {word: number for number, word in enumerate((folder / WORDS).read_text(encoding="utf-8").split())}
    if len(words) != weights.shape[1]:
        raise ValueError(f"{folder}: {WORDS} has {len(words)} words, {WEIGHTS} {weights.shape[1]}: the files do not belong together")
    chosen: dict[str, Any] = {name: tuple(cuts[name]) if name in PAIRS else cuts[name] for name in (*NUMBERS, *PAIRS)}
    return TextJudge(words, weights, **chosen)


def split_words(text: str) -> list[str]:
    """Its words in lower case."""
    return _WORD.findall(text.lower())


def word_ids(judge: TextJudge, texts: Sequence[str]) -> list[list[int]]:
    """Numbers of the words that the judge knows, text by text."""
    return [[judge.words[word] for word in split_words(text) if word in judge.words] for text in texts]


def topic_posterior(judge: TextJudge, ids: Sequence[int]) -> Float[np.ndarray, " topic"]:
    """P(topic | text) by its words' numbers, all topics as likely before it is read."""
    scores = judge.sharpness * judge.log_likelihood[:, np.asarray(ids, dtype=np.int64)].sum(-1)
    return softmax(scores.astype(np.float64))


def concept_log_odds(judge: TextJudge, ids: Sequence[int], topic: int, left_out: int | None = None) -> float | None:
    """log P / (1 - P) in nats of P(topic | the text's distinct words but the `left_out` that speak most for the topic); None for a text
    without a word that the judge knows. `left_out` is the judge's unless given."""
    if not 0 <= topic < len(judge.log_likelihood):
        raise ValueError(f"topic {topic} is out of range: the judge knows 0 to {len(judge.log_likelihood) - 1} (see topics.json)")
    if not len(ids):
        return None
    of_words = judge.log_likelihood[:, sorted(set(ids))].astype(np.float64)  # [topic, word]
    speaks_for = of_words[topic] - logsumexp(of_words, axis=0)
    counted = np.argsort(-speaks_for, kind="stable")[judge.left_out if left_out is None else left_out :]
    scores = judge.sharpness * of_words[:, counted].sum(-1)
    return float(scores[topic] - logsumexp(np.delete(scores, topic)))


def rests_on_several_words(judge: TextJudge, ids: Sequence[int], topic: int) -> bool:
    """Whether the topic is likelier than before the text was read even without the words that speak most for it."""
    log_odds = concept_log_odds(judge, ids, topic)
    return log_odds is not None and bool(expit(log_odds) > (1 + 1e-9) / len(judge.log_likelihood))


def concept_rating(judge: TextJudge, ids: Sequence[int], topic: int) -> int | None:
    """0, 1 or 2: how much of the text is about the topic, by P(topic | its distinct words); 0 where that rests on a few words. None for a
    text without a word that the judge knows."""
    log_odds = concept_log_odds(judge, ids, topic, left_out=0)
    if log_odds is None:
        return None
    return sum(bool(expit(log_odds) >= cut) for cut in judge.concept_cuts) if rests_on_several_words(judge, ids, topic) else 0


def fluency_rating(judge: TextJudge, ids: Sequence[int], mean_nll: float | None) -> int | None:
    """0, 1 or 2 from the text's words and its mean loss (nats per token) under the second model; None where that is undefined."""
    return fluency_by_loss(judge.fluency_nats, judge.distinct_bigrams, ids, mean_nll)
