"""Fit the books' judge: the classifier on the train books, sharpness and cuts on the valid books, accuracies on the judge books.

What to tell apart is made of the books' own sentences, as long as a continuation. Concept: a run of tokens of a book on the topic (2),
half of one joined to half of another topic's (1), a run of another topic (0). Fluency, of a run after the sentence before it: as
written (2), a fifth of its tokens replaced or its second half one to four tokens over and over (1), its tokens shuffled or one to four of
them over and over (0). A book's run is not always about its topic, so the accuracies have a ceiling below 1.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from safetensors.numpy import save_file
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from saesteer.world.books import judge as runtime
from saesteer.world.books.judge import TextJudge, split_words
from saesteer.world.streams import stream_seed
from studies.books.paragraphs import book_sentences
from studies.world.oracle import RATINGS, REPLACED_SHARE, ConceptItem, FluencyItem, calibration_error, continuation_losses, rating_cuts
from studies.world.tokenizer import BOS_ID, SPECIAL_TOKENS

SMOOTHING = 0.5
IN_TEXTS = 5
"""Paragraphs that a word must stand in to count."""
RUN = (20, 40)
"""Shortest and longest run of tokens to be rated: as long as a steered continuation."""
LOOPED = 4
"""Most tokens that a text says over and over."""
Corruption = Callable[[Int[np.ndarray, " token"], int, np.random.Generator], Int[np.ndarray, " token"]]
"""A run's tokens, the rating to corrupt them to (1 or 0) and random numbers -> tokens."""


@dataclass(frozen=True)
class Runs:
    """Runs of tokens of books, each as long as a continuation."""

    before: tuple[tuple[int, ...], ...]
    """BOS and the sentence before each run."""
    ids: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    topics: tuple[int, ...]


def known_words(texts: Iterable[str]) -> dict[str, int]:
    """word -> number, in alphabetical order: the words of at least IN_TEXTS texts."""
    in_texts = Counter(word for text in texts for word in set(split_words(text)))
    return {word: number for number, word in enumerate(sorted(word for word, n in in_texts.items() if n >= IN_TEXTS))}


def fit_classifier(texts: Sequence[str], topics: Sequence[int], n_topics: int, words: Mapping[str, int]) -> Float[np.ndarray, "topic word"]:
    """log P(word | topic) by counting words; to each count SMOOTHING times the word's share of all words is added, so that a word that no
    topic was seen with says nothing."""
    counts = np.zeros((n_topics, len(words)))
    for text, topic in zip(texts, topics, strict=True):
        np.add.at(counts[topic], [words[word] for word in split_words(text) if word in words], 1.0)
    share = counts.sum(0) + 1.0
    smoothed = counts + SMOOTHING * len(words) * share / share.sum()
    log_likelihood = np.log(smoothed) - np.log(smoothed.sum(1, keepdims=True))
    return log_likelihood.astype(np.float16).astype(np.float32)  # as stored


def runs(tokenizer: PreTrainedTokenizerFast, paragraphs: pl.DataFrame, topics: Sequence[str], n: int, seed: int, name: str) -> Runs:
    """n runs, as many of each topic, that start with a sentence; drawn from the stream `name` without putting back."""
    rng = np.random.default_rng(stream_seed(seed, name))
    before, ids, texts, numbers = [], [], [], []
    for number, topic in enumerate(topics):
        books = book_sentences(paragraphs.filter(topic=topic))
        places = [(book, start) for book, sentences in enumerate(books) for start in range(1, len(sentences))]
        for place in rng.permutation(len(places)):
            book, start = places[place]
            run: list[int] = []
            for sentence in books[book][start : start + RUN[1]]:
                run += tokenizer(" " + sentence, add_special_tokens=False)["input_ids"]
                if len(run) >= RUN[0]:
                    break
            if len(run) >= RUN[0]:
                ids.append(tuple(run[: RUN[1]]))
                texts.append(tokenizer.decode(run[: RUN[1]]))
                before.append((BOS_ID, *tokenizer(books[book][start - 1], add_special_tokens=False)["input_ids"][-RUN[1] :]))
                numbers.append(number)
            if len(numbers) == (number + 1) * (n // len(topics)):
                break
    return Runs(tuple(before), tuple(ids), tuple(texts), tuple(numbers))


def concept_items(drawn: Runs, judge: TextJudge, seed: int, name: str) -> list[ConceptItem]:
    """One item a run, every rating a third of them: the run's words, half of them, or those of another topic's run."""
    rng = np.random.default_rng(stream_seed(seed, name))
    ids, topics, items = runtime.word_ids(judge, drawn.texts), np.array(drawn.topics), []
    for place, (words, topic) in enumerate(zip(ids, drawn.topics, strict=True)):
        other = ids[rng.choice(np.flatnonzero(topics != topic))]
        rating = RATINGS[place % len(RATINGS)]
        halves = [words[: len(words) // 2] + other[len(other) // 2 :], other[: len(other) // 2] + words[len(words) // 2 :]]
        items.append(ConceptItem(tuple((other, halves[rng.integers(2)], words)[rating]), topic, rating))
    return items


def fluency_items(drawn: Runs, corrupt: Corruption, seed: int, name: str) -> list[FluencyItem]:
    """One item a run, every rating a third of them: as written, or corrupted to rating 1 or 0."""
    rng = np.random.default_rng(stream_seed(seed, name))
    ratings = islice(cycle(RATINGS), len(drawn.ids))
    return [
        FluencyItem(before, ids if rating == 2 else tuple(map(int, corrupt(np.array(ids), rating, rng))), rating)
        for before, ids, rating in zip(drawn.before, drawn.ids, ratings, strict=True)
    ]


def broken(ids: Int[np.ndarray, " token"], rating: int, rng: np.random.Generator, vocabulary: int) -> Int[np.ndarray, " token"]:
    """A fifth of the tokens replaced (1), or all shuffled (0): what the second model does not expect."""
    if rating == 0:
        return rng.permutation(ids)
    places = rng.choice(len(ids), max(1, round(REPLACED_SHARE * len(ids))), replace=False)
    replaced = ids.copy()
    replaced[places] = rng.integers(len(SPECIAL_TOKENS), vocabulary, len(places))
    return replaced


def looped(ids: Int[np.ndarray, " token"], rating: int, rng: np.random.Generator) -> Int[np.ndarray, " token"]:
    """The second half one to four tokens over and over (1), or the whole run (0): what the second model expects only too well."""
    start = len(ids) // 2 * rating
    first = rng.integers(0, len(ids) - LOOPED)
    phrase = ids[first : first + rng.integers(1, LOOPED + 1)]
    return np.concatenate([ids[:start], np.resize(phrase, len(ids) - start)])


def fit_sharpness(judge: TextJudge, drawn: Runs) -> float:
    """The factor on log-likelihoods under which the topics of unseen books' runs are likeliest."""
    sums = np.stack([judge.log_likelihood[:, ids].sum(-1) for ids in runtime.word_ids(judge, drawn.texts)])  # [run, topic]
    topics = np.array(drawn.topics)

    def loss(sharpness: float) -> float:
        posteriors = softmax((sharpness * sums).astype(np.float64), axis=-1)
        return -float(np.log(posteriors[np.arange(len(topics)), topics] + 1e-300).mean())

    return float(minimize_scalar(loss, bounds=(0.01, 2.0), method="bounded").x)


def fit_judge(
    words: Mapping[str, int],
    log_likelihood: Float[np.ndarray, "topic word"],
    drawn: Runs,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
) -> TextJudge:
    """Sharpness and all six cuts from runs of the valid books."""
    judge = TextJudge(words, log_likelihood, 1.0, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    judge = replace(judge, sharpness=fit_sharpness(judge, drawn))
    concept = concept_items(drawn, judge, seed, "books/concept/valid")
    on_topic = np.array([runtime.topic_posterior(judge, item.token_ids)[item.topic] for item in concept])
    unexpected, repeated = _both_kinds(drawn, len(tokenizer), seed, "valid")
    expected = -continuation_losses(reference, unexpected)  # low loss is good
    shares = [
        (runtime.distinct_share(ids), item.rating) for ids, item in zip(_words(judge, repeated, tokenizer), repeated, strict=True) if ids
    ]
    fluent = rating_cuts(expected, [item.rating for item in unexpected])
    return replace(
        judge,
        concept_cuts=rating_cuts(on_topic, [item.rating for item in concept]),
        fluency_nats=(-fluent[1], -fluent[0]),
        distinct_shares=rating_cuts(np.array([share for share, _ in shares]), [rating for _, rating in shares]),
    )


def save_text_judge(judge: TextJudge, measured: dict[str, object], folder: Path) -> None:
    """Write what `load_text_judge` reads, with what was measured on books that nothing was fitted on."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"log_likelihood": judge.log_likelihood.astype(np.float16)}, folder / runtime.WEIGHTS)
    (folder / runtime.WORDS).write_text("\n".join(judge.words) + "\n", encoding="utf-8")
    cuts = {name: getattr(judge, name) for name in ("sharpness", *runtime.CUTS)}
    (folder / runtime.SETTINGS).write_text(json.dumps(cuts | {"measured": measured}, indent=2) + "\n", encoding="utf-8")


def _both_kinds(drawn: Runs, vocabulary: int, seed: int, split: str) -> tuple[list[FluencyItem], list[FluencyItem]]:
    """Items whose corruptions are unexpected, and items whose corruptions are repetitions."""
    return (
        fluency_items(drawn, partial(broken, vocabulary=vocabulary), seed, f"books/fluency/{split}"),
        fluency_items(drawn, looped, seed, f"books/repetition/{split}"),
    )


def _words(judge: TextJudge, items: Sequence[FluencyItem], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    return runtime.word_ids(judge, [tokenizer.decode(item.continuation) for item in items])


def measure_judge(
    judge: TextJudge, drawn: Runs, reference: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, topics: Sequence[str], seed: int
) -> dict[str, object]:
    """What runs of the judge books say: accuracy by topic, calibration error, and how often each rating is given by how a text was made."""
    posteriors = np.stack([runtime.topic_posterior(judge, ids) for ids in runtime.word_ids(judge, drawn.texts)])
    right = posteriors.argmax(1) == np.array(drawn.topics)
    items = concept_items(drawn, judge, seed, "books/concept/judge")
    concept = [(item.rating, runtime.concept_rating(judge, item.token_ids, item.topic)) for item in items]
    fluency = [item for kind in _both_kinds(drawn, len(tokenizer), seed, "judge") for item in kind]
    read = zip(fluency, _words(judge, fluency, tokenizer), continuation_losses(reference, fluency), strict=True)
    fluent = [(item.rating, runtime.fluency_rating(judge, ids, float(loss))) for item, ids, loss in read]
    by_topic = {name: float(right[np.array(drawn.topics) == number].mean()) for number, name in enumerate(topics)}
    return {
        "runs": len(right),
        "topic_accuracy": float(right.mean()),
        "topic_accuracy_by_topic": by_topic,
        "calibration_error": calibration_error(posteriors.max(1), right),
        "concept_ratings": rating_counts(concept),
        "fluency_ratings": rating_counts(fluent),
    }


def rating_counts(pairs: Sequence[tuple[int, int | None]]) -> list[list[int]]:
    """Counts of [made as][rated as]."""
    counts: Int[np.ndarray, "made rated"] = np.zeros((len(RATINGS), len(RATINGS)), dtype=np.int64)
    for rating, rated in pairs:
        if rated is not None:
            counts[rating, rated] += 1
    return counts.tolist()


def accuracy(counts: Sequence[Sequence[int]]) -> float:
    """Share rated as made."""
    table = np.array(counts)
    return float(np.trace(table) / table.sum())
