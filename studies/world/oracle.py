"""Fit the shipped world's judge and measure it: parameters on one split, cuts on a second, accuracies on a third.

The texts to tell apart are made by the grammar itself. Concept: a sentence of the topic (2), half of one joined to half of another
topic's (1), a sentence of another topic, as it is or with one to three words of the topic in it, or a single word of the topic once or
several times (0). Fluency, of a sentence after a neutral opener: as written (2), with a word left out (1), with a fifth of its words
replaced, shuffled, or with one to four words over and over from its start or its middle on (0). Sentences as written also give the ranges
that fluency is judged by. So the accuracies say how well these corruptions are told apart, not how people would rate. Nothing is fitted to
the table of tests/degenerate_texts.py.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8, UInt16
from safetensors.numpy import save_file
from scipy.special import softmax
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from saesteer.analysis.acceptability import distinct_bigram_share
from saesteer.engine.models import LanguageModel
from saesteer.world import grammar
from saesteer.world import oracle_judge as runtime
from saesteer.world.grammar import NO_TOPIC
from saesteer.world.lexicon import Lexicon
from saesteer.world.oracle_judge import Oracle, Thresholds
from saesteer.world.streams import text_stream
from studies.world import corpus
from studies.world.tokenizer import BOS_ID, PAD_ID, vocabulary

SMOOTHING = 0.5
CONTENT_NATS = (0.25, 0.5, 1.0, 1.5, 2.0)
TOPIC_POSTERIORS = (0.2, 0.3, 0.5)
LEAST_ON_TOPIC = (1, 2, 3)
REPLACED_SHARE = 0.2
RATINGS = (0, 1, 2)
ADDED = 3
"""Most words of a topic that are put into a text about another one."""
OUTSIDE = 0.05
"""Share of written sentences that may lie beyond an end of what is taken for theirs."""
LOOPED = 4
"""Most words, or tokens, that a text says over and over."""
UNSCORED = -100
UNFITTED = Thresholds((0.0, 0.0), 0.0, (0.0, 0.0), 0.0, 0.0, CONTENT_NATS[0], TOPIC_POSTERIORS[0], LEAST_ON_TOPIC[0], (0.5, 0.5))
"""Cuts of a judge whose cuts were not chosen yet."""


@dataclass(frozen=True)
class OracleSizes:
    """How many texts each split holds; concept and fluency items are counted per rating."""

    fit_documents: int = 8000
    sentences: int = 4000
    items: int = 1000


@dataclass(frozen=True)
class ConceptItem:
    """A text to be rated for a topic, and the rating that its making gives it."""

    token_ids: tuple[int, ...]
    topic: int
    rating: int


@dataclass(frozen=True)
class FluencyItem:
    """BOS and opener, a continuation to be rated, and the rating that its making gives it."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    rating: int
    loop: bool = False
    """Whether it says the same over and over, which a language model expects."""


def fit_classifier(
    rows: UInt16[np.ndarray, "row context"], topics: UInt8[np.ndarray, "row context"], n_topics: int, vocab: int
) -> tuple[Float[np.ndarray, "topic vocab"], Float[np.ndarray, " topic"]]:
    """Naive Bayes by counting labelled tokens, each count raised by SMOOTHING: (log P(token | topic), log P(topic))."""
    labelled = topics != NO_TOPIC
    counts = np.zeros((n_topics, vocab))
    np.add.at(counts, (topics[labelled].astype(np.int64), rows[labelled].astype(np.int64)), 1.0)
    prior = counts.sum(1) + SMOOTHING
    # A token that no topic was seen with must say nothing about the topic: smooth with the prior's shape, not with equal counts.
    smoothed = counts + SMOOTHING * prior[:, None] / prior.mean()
    log_likelihood = np.log(smoothed) - np.log(smoothed.sum(1, keepdims=True))
    return log_likelihood.astype(np.float32), np.log(prior / prior.sum()).astype(np.float32)


def count_pairs(rows: UInt16[np.ndarray, "row context"], vocab: int) -> Float[np.ndarray, "token next"]:
    """How often one token follows another, in rows that end in padding."""
    counts = np.zeros((vocab, vocab), dtype=np.float32)
    first, then = rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)
    np.add.at(counts, (first[then != PAD_ID], then[then != PAD_ID]), 1)
    return counts


def concept_items(lexicon: Lexicon, tokenizer: PreTrainedTokenizerFast, seed: int, name: str, n: int) -> list[ConceptItem]:
    """n items of each rating, from the stream `name`."""
    rng = text_stream(seed, name)
    items = []
    for rating in RATINGS * n:
        topic = rng.randrange(len(lexicon.topics))
        other = (topic + rng.randrange(1, len(lexicon.topics))) % len(lexicon.topics)
        on, off = (grammar.single_sentence(lexicon, t, 0.0, rng).words for t in (topic, other))
        halves = [on[: len(on) // 2] + off[len(off) // 2 :], off[: len(off) // 2] + on[len(on) // 2 :]]
        topical = _topic_words(lexicon, topic)
        off_topic = rng.choice((off, with_added(off, topical, rng), (rng.choice(topical),) * rng.randint(1, len(off))))
        words = (off_topic, rng.choice(halves), on)[rating]
        items.append(ConceptItem(_ids(tokenizer, words), topic, rating))
    return items


def fluency_items(lexicon: Lexicon, tokenizer: PreTrainedTokenizerFast, seed: int, name: str, n: int) -> list[FluencyItem]:
    """n items of each rating, from the stream `name`, of any of the CORRUPTIONS of that rating."""
    rng = text_stream(seed, name)
    words = vocabulary(lexicon)[0]
    items = []
    for rating in RATINGS * n:
        sentence = grammar.single_sentence(lexicon, rng.randrange(len(lexicon.topics)), 1.0, rng)
        n_opener = sentence.topics.count(NO_TOPIC)
        kind = rng.choice(list(CORRUPTIONS[rating]))
        clause = (*CORRUPTIONS[rating][kind](list(sentence.words[n_opener:-1]), words, rng), sentence.words[-1])
        opener = (BOS_ID, *_ids(tokenizer, sentence.words[:n_opener]))
        items.append(FluencyItem(opener, _ids(tokenizer, clause), rating, kind == "loop"))
    return items


def continuation_losses(model: PreTrainedModel, items: Sequence[FluencyItem], batch: int = 64) -> Float[np.ndarray, " item"]:
    """Mean loss (nats per token) of each continuation given its context."""
    losses = []
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        tokens = [torch.tensor(item.context + item.continuation) for item in part]
        targets = [torch.tensor((UNSCORED,) * len(item.context) + item.continuation) for item in part]
        scored = pad_sequence(targets, batch_first=True, padding_value=UNSCORED)[:, 1:]
        with torch.no_grad():
            padded = pad_sequence(tokens, batch_first=True, padding_value=PAD_ID)
            logits = model(input_ids=padded, use_cache=False).logits[:, :-1]
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), scored, ignore_index=UNSCORED, reduction="none")
        losses.append((nll.sum(1) / (scored != UNSCORED).sum(1)).numpy())
    return np.concatenate(losses)


def best_cut(higher: Float[np.ndarray, " high"], lower: Float[np.ndarray, " low"]) -> float:
    """The cut c that maximises P(higher >= c) - P(lower >= c); of equally good ones the middle one. Half-way between two values seen."""
    values = np.unique(np.concatenate([higher, lower]))
    if len(values) == 1:
        return float(values[0])
    cuts = (values[1:] + values[:-1]) / 2
    gain = np.searchsorted(np.sort(lower), cuts) / len(lower) - np.searchsorted(np.sort(higher), cuts) / len(higher)
    best = np.flatnonzero(gain >= gain.max() - 1e-12)
    return float(cuts[best[len(best) // 2]])


def rating_cuts(values: Float[np.ndarray, " item"], ratings: Sequence[int]) -> tuple[float, float]:
    """Where 1 begins and where 2 begins, of values that rise with the rating."""
    groups = [values[np.array(ratings) == rating] for rating in RATINGS]
    cuts = best_cut(groups[1], groups[0]), best_cut(groups[2], groups[1])
    return min(cuts), max(cuts)


def fit_concept(oracle: Oracle, items: Sequence[ConceptItem]) -> Oracle:
    """Choose the content, posterior, number and share cuts that rate most calibration items rightly (the first of equals in grid order)."""
    grid = (_with_shares(oracle, items, *cuts) for cuts in product(CONTENT_NATS, TOPIC_POSTERIORS, LEAST_ON_TOPIC))
    candidates = [candidate for candidate in grid if candidate is not None]
    if not candidates:
        raise ValueError(f"no token differs by {CONTENT_NATS[0]} nats between topics: the labelled texts are too few to fit the oracle on")
    accuracies = [concept_accuracy(candidate, items) for candidate in candidates]
    return candidates[int(np.argmax(accuracies))]


def fit_fluency(oracle: Oracle, losses: Float[np.ndarray, " item"], items: Sequence[FluencyItem]) -> Oracle:
    """The ranges of calibration sentences as they were written; the largest loss, between the worst kinds without the loops and the others;
    and the cut on distinct pairs on written sentences and loops."""
    ratings, loops = np.array([item.rating for item in items]), np.array([item.loop for item in items])
    distinct = np.array([distinct_bigram_share(item.continuation) for item in items])
    written = [item.continuation for item, rating in zip(items, ratings, strict=True) if rating == 2]
    functions = np.array([runtime.function_share(oracle, ids) for ids in written], dtype=np.float64)
    orders = np.array([order for ids in written if (order := runtime.order_nats(oracle, ids)) is not None])
    cuts: dict[str, Any] = {
        "nats": _middle_90(losses[ratings == 2]),
        "most_nats": -best_cut(-losses[ratings == 1], -losses[(ratings == 0) & ~loops]),
        "function_shares": _middle_90(functions),
        "order_nats": float(np.quantile(orders, OUTSIDE)),
        "distinct_bigrams": best_cut(distinct[ratings == 2], distinct[loops]),
    }
    return replace(oracle, thresholds=replace(oracle.thresholds, **cuts))


def _middle_90(values: Float[np.ndarray, " item"]) -> tuple[float, float]:
    return float(np.quantile(values, OUTSIDE)), float(np.quantile(values, 1 - OUTSIDE))


def concept_accuracy(oracle: Oracle, items: Sequence[ConceptItem]) -> float:
    """Share of items rated as made; an item without a content token counts as wrong."""
    return float(np.mean([runtime.concept_rating(oracle, item.token_ids, item.topic) == item.rating for item in items]))


def fluency_accuracy(oracle: Oracle, losses: Float[np.ndarray, " item"], items: Sequence[FluencyItem]) -> float:
    """Share of items rated as made."""
    rated = [runtime.fluency_rating(oracle, item.continuation, float(loss)) for item, loss in zip(items, losses, strict=True)]
    return float(np.mean([rating == item.rating for rating, item in zip(rated, items, strict=True)]))


def classify_sentence(oracle: Oracle, token_ids: Sequence[int]) -> Float[np.ndarray, " topic"]:
    """P(topic | all tokens), tokens taken as independent given the topic."""
    scores = oracle.log_likelihood[:, np.asarray(token_ids, dtype=np.int64)].sum(-1) + oracle.log_prior
    return softmax(scores.astype(np.float64))


def sentence_accuracy(oracle: Oracle, sentences: Sequence[tuple[tuple[int, ...], int]]) -> tuple[float, float]:
    """(32-way accuracy, expected calibration error over ten bins of the largest probability) on (token_ids, topic) pairs."""
    posteriors = np.stack([classify_sentence(oracle, ids) for ids, _ in sentences])
    right = posteriors.argmax(1) == np.array([topic for _, topic in sentences])
    return float(right.mean()), calibration_error(posteriors.max(1), right)


def calibration_error(confidence: Float[np.ndarray, " text"], right: Bool[np.ndarray, " text"]) -> float:
    """Mean distance of confidence and accuracy over ten bins of confidence, weighted by their texts."""
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gaps))


def fit_oracle(lexicon: Lexicon, reference: LanguageModel, seed: int, sizes: OracleSizes) -> tuple[Oracle, dict[str, float]]:
    """The fitted judge and what the test split says of it."""
    tokenizer = reference.tokenizer
    docs = corpus.fitted_corpus(lexicon, seed, "oracle/fit", sizes.fit_documents).documents
    rows, topics = corpus.padded_rows(tokenizer, docs), corpus.labels(docs)
    log_likelihood, log_prior = fit_classifier(rows, topics, len(lexicon.topics), len(tokenizer))
    oracle = Oracle(log_likelihood, log_prior, count_pairs(rows, len(tokenizer)), UNFITTED)
    oracle = fit_concept(oracle, concept_items(lexicon, tokenizer, seed, "oracle/concept_calibration", sizes.items))
    calibration = fluency_items(lexicon, tokenizer, seed, "oracle/fluency_calibration", sizes.items)
    oracle = fit_fluency(oracle, continuation_losses(reference.model, calibration), calibration)
    return oracle, measure_oracle(oracle, lexicon, reference, seed, sizes)


def measure_oracle(oracle: Oracle, lexicon: Lexicon, reference: LanguageModel, seed: int, sizes: OracleSizes) -> dict[str, float]:
    """Accuracies on the texts of the test split."""
    tokenizer, rng = reference.tokenizer, text_stream(seed, "oracle/sentence_test")
    topics = [rng.randrange(len(lexicon.topics)) for _ in range(sizes.sentences)]
    sentences = [(_ids(tokenizer, grammar.single_sentence(lexicon, topic, 0.0, rng).words), topic) for topic in topics]
    accuracy, calibration_error = sentence_accuracy(oracle, sentences)
    fluency = fluency_items(lexicon, tokenizer, seed, "oracle/fluency_test", sizes.items)
    return {
        "sentence_accuracy": accuracy,
        "calibration_error": calibration_error,
        "concept_accuracy": concept_accuracy(oracle, concept_items(lexicon, tokenizer, seed, "oracle/concept_test", sizes.items)),
        "fluency_accuracy": fluency_accuracy(oracle, continuation_losses(reference.model, fluency), fluency),
    }


def save_oracle(oracle: Oracle, measured: dict[str, float], sizes: OracleSizes, folder: Path) -> None:
    """Write the judge, as `load_oracle` reads it, with what the test split says of it."""
    splits = {"parameters": "oracle/fit", "thresholds": "oracle/*_calibration", "accuracies": "oracle/*_test"}
    folder.mkdir(parents=True, exist_ok=True)
    pairs = np.ascontiguousarray(np.argwhere(oracle.pair_counts), dtype=np.uint16)  # safetensors would write another order's bytes
    counts = oracle.pair_counts[tuple(pairs.T.astype(np.int64))].astype(np.uint16)
    weights = {"log_likelihood": oracle.log_likelihood, "log_prior": oracle.log_prior, "pairs": pairs, "pair_counts": counts}
    save_file(weights, folder / runtime.WEIGHTS)
    settings = {"thresholds": asdict(oracle.thresholds), "measured": measured, "splits": splits, "sizes": asdict(sizes)}
    (folder / runtime.SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _with_shares(oracle: Oracle, items: Sequence[ConceptItem], content_nats: float, posterior: float, least: int) -> Oracle | None:
    """The oracle with share cuts for these settings; None when they leave a rating without an item that has content."""
    settings = replace(oracle.thresholds, content_nats=content_nats, topic_posterior=posterior, least_on_topic=least)
    oracle = replace(oracle, thresholds=settings)
    shares = [(runtime.topic_share(oracle, item.token_ids, item.topic), item.rating) for item in items]
    known = [(share, rating) for share, rating in shares if share is not None]
    if {rating for _, rating in known} != {*RATINGS}:
        return None
    cuts = rating_cuts(np.array([share for share, _ in known]), [rating for _, rating in known])
    return replace(oracle, thresholds=replace(oracle.thresholds, concept_shares=cuts))


def with_added(words: Sequence[str], topical: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    """Words of a text, its full stop the last, with one to ADDED words of a topic between them or in the place of some."""
    body = list(words[:-1])
    for word in rng.sample(list(topical), rng.randint(1, ADDED)):
        place = rng.randrange(len(body) + 1)
        body[place : place + rng.randint(0, 1)] = [word]
    return (*body, words[-1])


def without_one(words: list[str], _: Sequence[str], rng: random.Random) -> list[str]:
    """A word left out."""
    place = rng.randrange(len(words))
    return words[:place] + words[place + 1 :]


def partly_replaced(words: list[str], vocabulary: Sequence[str], rng: random.Random) -> list[str]:
    """A fifth of the words replaced by any others."""
    replaced = list(words)
    for place in rng.sample(range(len(words)), max(1, round(REPLACED_SHARE * len(words)))):
        replaced[place] = rng.choice(vocabulary)
    return replaced


def looped(words: list[str], _: Sequence[str], rng: random.Random) -> list[str]:
    """One to LOOPED successive words over and over, from the start on or from the middle, to twice the length."""
    size = min(len(words), rng.randint(1, LOOPED))
    first = rng.randint(0, len(words) - size)
    beginning = words[: rng.choice((0, len(words) // 2))]
    return beginning + [words[first + place % size] for place in range(2 * len(words) - len(beginning))]


Corruption = Callable[[list[str], Sequence[str], random.Random], Sequence[str]]
CORRUPTIONS: Mapping[int, Mapping[str, Corruption]] = {
    2: {"as written": lambda words, _vocabulary, _rng: words},
    1: {"a word left out": without_one},
    0: {
        "shuffled": lambda words, _vocabulary, rng: rng.sample(words, len(words)),
        "replaced": partly_replaced,
        "loop": looped,
    },
}
"""Rating -> kinds of what is rated so, each from a clause without its full stop, the grammar's words and random numbers."""


def _topic_words(lexicon: Lexicon, topic: int) -> list[str]:
    """The words of a topic's lists, each once."""
    return sorted({word for words in lexicon.topics[topic].lists.values() for phrase in words for word in phrase.split()})


def _ids(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> tuple[int, ...]:
    """Ids of words as they stand inside a text (each but punctuation with its space)."""
    ids: list[int] = tokenizer(" " + grammar.join_words(tuple(words)), add_special_tokens=False)["input_ids"]
    return tuple(ids)
