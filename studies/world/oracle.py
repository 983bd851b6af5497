"""Fit the shipped world's judge and measure it: parameters on one split, cuts on a second, accuracies on a third.

The texts to tell apart are made by the grammar itself. Concept: a sentence of the topic (2), half of one joined to half of another
topic's (1), a sentence of another topic (0). Fluency, of a sentence after a neutral opener: as written (2), a fifth of its words
replaced (1), its words shuffled or one of them repeated throughout (0). So the accuracies say how well these corruptions are told
apart, not how people would rate.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8, UInt16
from safetensors.numpy import save_file
from scipy.special import softmax
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from saesteer.world import grammar
from saesteer.world import oracle_judge as runtime
from saesteer.world.grammar import NO_TOPIC
from saesteer.world.lexicon import Lexicon
from saesteer.world.oracle_judge import Oracle, Thresholds
from saesteer.world.streams import text_stream
from studies.world import corpus
from studies.world.documents import vocabulary
from studies.world.tokenizer import BOS_ID, PAD_ID

SMOOTHING = 0.5
CONTENT_NATS = (0.25, 0.5, 1.0, 1.5, 2.0)
TOPIC_POSTERIORS = (0.2, 0.3, 0.5)
REPLACED_SHARE = 0.2
RATINGS = (0, 1, 2)
UNSCORED = -100


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


def concept_items(lexicon: Lexicon, tokenizer: PreTrainedTokenizerFast, seed: int, name: str, n: int) -> list[ConceptItem]:
    """n items of each rating, from the stream `name`."""
    rng = text_stream(seed, name)
    items = []
    for rating in RATINGS * n:
        topic = rng.randrange(len(lexicon.topics))
        other = (topic + rng.randrange(1, len(lexicon.topics))) % len(lexicon.topics)
        on, off = (grammar.single_sentence(lexicon, t, 0.0, rng).words for t in (topic, other))
        halves = [on[: len(on) // 2] + off[len(off) // 2 :], off[: len(off) // 2] + on[len(on) // 2 :]]
        words = (off, rng.choice(halves), on)[rating]
        items.append(ConceptItem(_ids(tokenizer, words), topic, rating))
    return items


def fluency_items(lexicon: Lexicon, tokenizer: PreTrainedTokenizerFast, seed: int, name: str, n: int) -> list[FluencyItem]:
    """n items of each rating, from the stream `name`."""
    rng = text_stream(seed, name)
    words = vocabulary(lexicon)[0]
    items = []
    for rating in RATINGS * n:
        sentence = grammar.single_sentence(lexicon, rng.randrange(len(lexicon.topics)), 1.0, rng)
        n_opener = sentence.topics.count(NO_TOPIC)
        clause = _corrupted(list(sentence.words[n_opener:]), rating, words, rng)
        opener = (BOS_ID, *_ids(tokenizer, sentence.words[:n_opener]))
        items.append(FluencyItem(opener, _ids(tokenizer, clause), rating))
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
    """Choose the content, posterior and share cuts that rate most calibration items rightly (the first of equals in grid order)."""
    grid = (_with_shares(oracle, items, nats, posterior) for nats in CONTENT_NATS for posterior in TOPIC_POSTERIORS)
    candidates = [candidate for candidate in grid if candidate is not None]
    if not candidates:
        raise ValueError(f"no token differs by {CONTENT_NATS[0]} nats between topics: the labelled texts are too few to fit the oracle on")
    accuracies = [concept_accuracy(candidate, items) for candidate in candidates]
    return candidates[int(np.argmax(accuracies))]


def fit_fluency(oracle: Oracle, losses: Float[np.ndarray, " item"], items: Sequence[FluencyItem]) -> Oracle:
    """Choose both loss cuts on calibration items; low loss is good, so the cuts are sought on its negative."""
    cuts = rating_cuts(-losses, [item.rating for item in items])
    return replace(oracle, thresholds=replace(oracle.thresholds, fluency_nats=(-cuts[1], -cuts[0])))


def concept_accuracy(oracle: Oracle, items: Sequence[ConceptItem]) -> float:
    """Share of items rated as made; an item without a content token counts as wrong."""
    return float(np.mean([runtime.concept_rating(oracle, item.token_ids, item.topic) == item.rating for item in items]))


def fluency_accuracy(oracle: Oracle, losses: Float[np.ndarray, " item"], items: Sequence[FluencyItem]) -> float:
    """Share of items rated as made."""
    rated = [runtime.fluency_rating(oracle.thresholds.fluency_nats, float(loss)) for loss in losses]
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


def fit_oracle(
    lexicon: Lexicon, tokenizer: PreTrainedTokenizerFast, reference: PreTrainedModel, seed: int, sizes: OracleSizes
) -> tuple[Oracle, dict[str, float]]:
    """The fitted judge and what the test split says of it."""
    docs = corpus.fitted_corpus(lexicon, seed, "oracle/fit", sizes.fit_documents).documents
    rows, topics = corpus.padded_rows(tokenizer, docs), corpus.labels(docs)
    log_likelihood, log_prior = fit_classifier(rows, topics, len(lexicon.topics), len(tokenizer))
    oracle = Oracle(log_likelihood, log_prior, Thresholds(CONTENT_NATS[0], TOPIC_POSTERIORS[0], (0.5, 0.5), (0.0, 0.0)))
    oracle = fit_concept(oracle, concept_items(lexicon, tokenizer, seed, "oracle/concept_calibration", sizes.items))
    calibration = fluency_items(lexicon, tokenizer, seed, "oracle/fluency_calibration", sizes.items)
    oracle = fit_fluency(oracle, continuation_losses(reference, calibration), calibration)
    return oracle, measure_oracle(oracle, lexicon, tokenizer, reference, seed, "test", sizes)


def measure_oracle(
    oracle: Oracle,
    lexicon: Lexicon,
    tokenizer: PreTrainedTokenizerFast,
    reference: PreTrainedModel,
    seed: int,
    split: str,
    sizes: OracleSizes,
) -> dict[str, float]:
    """Accuracies on fresh texts of the streams of `split`."""
    rng = text_stream(seed, f"oracle/sentence_{split}")
    topics = [rng.randrange(len(lexicon.topics)) for _ in range(sizes.sentences)]
    sentences = [(_ids(tokenizer, grammar.single_sentence(lexicon, topic, 0.0, rng).words), topic) for topic in topics]
    accuracy, calibration_error = sentence_accuracy(oracle, sentences)
    fluency = fluency_items(lexicon, tokenizer, seed, f"oracle/fluency_{split}", sizes.items)
    return {
        "sentence_accuracy": accuracy,
        "calibration_error": calibration_error,
        "concept_accuracy": concept_accuracy(oracle, concept_items(lexicon, tokenizer, seed, f"oracle/concept_{split}", sizes.items)),
        "fluency_accuracy": fluency_accuracy(oracle, continuation_losses(reference, fluency), fluency),
    }


def save_oracle(oracle: Oracle, measured: dict[str, float], sizes: OracleSizes, folder: Path) -> None:
    """Write what `saesteer.world.oracle_judge.load_oracle` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"log_likelihood": oracle.log_likelihood, "log_prior": oracle.log_prior}, folder / runtime.WEIGHTS)
    splits = {"parameters": "oracle/fit", "thresholds": "oracle/*_calibration", "accuracies": "oracle/*_test"}
    settings = {"thresholds": asdict(oracle.thresholds), "measured": measured, "splits": splits, "sizes": asdict(sizes)}
    (folder / runtime.SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _with_shares(oracle: Oracle, items: Sequence[ConceptItem], content_nats: float, posterior: float) -> Oracle | None:
    """The oracle with share cuts for these settings; None when they leave a rating without an item that has content."""
    oracle = replace(oracle, thresholds=replace(oracle.thresholds, content_nats=content_nats, topic_posterior=posterior))
    shares = [(runtime.topic_share(oracle, item.token_ids, item.topic), item.rating) for item in items]
    known = [(share, rating) for share, rating in shares if share is not None]
    if {rating for _, rating in known} != {*RATINGS}:
        return None
    cuts = rating_cuts(np.array([share for share, _ in known]), [rating for _, rating in known])
    return replace(oracle, thresholds=replace(oracle.thresholds, concept_shares=cuts))


def _corrupted(words: list[str], rating: int, vocabulary: list[str], rng: random.Random) -> tuple[str, ...]:
    """The clause as it is (2), with a fifth of its words replaced (1), shuffled or one word repeated (0). Its full stop stays."""
    body = words[:-1]
    if rating == 1:
        for position in rng.sample(range(len(body)), max(1, round(REPLACED_SHARE * len(body)))):
            body[position] = rng.choice(vocabulary)
    elif rating == 0 and rng.random() < 0.5:
        rng.shuffle(body)
    elif rating == 0:
        body = [rng.choice(body)] * len(body)
    return (*body, words[-1])


def _ids(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> tuple[int, ...]:
    """Ids of words as they stand inside a text (each but punctuation with its space)."""
    ids: list[int] = tokenizer(" " + grammar.join_words(tuple(words)), add_special_tokens=False)["input_ids"]
    return tuple(ids)
