"""The judge of natural text: which topic a whole text is about, by naive Bayes over its words, and how well a second model expects it.

P1 and AxBench (arXiv 2505.20063, 2501.17148) have a language model rate concept and fluency from 0 to 2. Here the concept rating is
read off P(topic | text). A word of natural text says little on its own, and words lean on one another, so that plain naive Bayes is far
too sure: log-likelihoods are multiplied by `sharpness`, fitted on books that the classifier never saw.

A text that repeats itself, which is how strong steering ends, is one that a language model expects: its loss is low. So the fluency rating
is the lower of two, by the loss and by the share of the text's words that are distinct.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors.numpy import load_file
from scipy.special import softmax

from saesteer.world import oracle_judge

ALGORITHM_VERSION = 1

WEIGHTS, WORDS, SETTINGS = "classifier.safetensors", "words.txt", "text_judge.json"
CUTS = ("concept_cuts", "fluency_nats", "distinct_shares")
_WORD = re.compile("[a-z]+")


@dataclass(frozen=True, eq=False)
class TextJudge:
    """A topic classifier of whole texts and the cuts of both ratings: (1 from here, 2 from here) for the topic's probability and for the
    share of distinct words, (2 up to here, 1 up to here) for the loss."""

    words: Mapping[str, int]
    log_likelihood: Float[np.ndarray, "topic word"]
    sharpness: float
    concept_cuts: tuple[float, float]
    fluency_nats: tuple[float, float]
    distinct_shares: tuple[float, float]


def load_text_judge(folder: Path) -> TextJudge:
    """Read classifier.safetensors, words.txt and text_judge.json."""
    cuts = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    weights = load_file(folder / WEIGHTS)["log_likelihood"].astype(np.float32)
    words = {word: number for number, word in enumerate((folder / WORDS).read_text(encoding="utf-8").split())}
    if len(words) != weights.shape[1]:
        raise ValueError(f"{folder}: {WORDS} has {len(words)} words, {WEIGHTS} {weights.shape[1]}: the files do not belong together")
    return TextJudge(words, weights, cuts["sharpness"], **{name: tuple(cuts[name]) for name in CUTS})


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


def concept_rating(judge: TextJudge, ids: Sequence[int], topic: int) -> int | None:
    """0, 1 or 2: how much of the text is about the topic; None for a text without a word that the judge knows."""
    if not 0 <= topic < len(judge.log_likelihood):
        raise ValueError(f"topic {topic} is out of range: the judge knows 0 to {len(judge.log_likelihood) - 1} (see topics.json)")
    if not len(ids):
        return None
    probability = topic_posterior(judge, ids)[topic]
    return sum(bool(probability >= cut) for cut in judge.concept_cuts)


def fluency_rating(judge: TextJudge, ids: Sequence[int], mean_nll: float | None) -> int | None:
    """0, 1 or 2 from the text's words and its mean loss (nats per token) under the second model; None where that is undefined."""
    by_loss = oracle_judge.fluency_rating(judge.fluency_nats, mean_nll)
    if by_loss is None or not len(ids):
        return by_loss
    return min(by_loss, sum(distinct_share(ids) >= cut for cut in judge.distinct_shares))


def distinct_share(ids: Sequence[int]) -> float:
    """Distinct words over words."""
    return len(set(ids)) / len(ids)
