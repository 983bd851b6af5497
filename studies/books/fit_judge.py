"""Fit the books' judge: the classifier on the train books, sharpness and cuts on the valid books, accuracies on the judge books.

What to tell apart is made of the books' own sentences, as long as a continuation. Concept: a run of tokens of a book on the topic (2),
half of one joined to half of another topic's (1), a run of another topic (0). Fluency, of a run after the sentence before it: as
written (2), with a tenth of its words replaced by those of another run (1), with its words shuffled, or with one to four tokens over and
over from its start or its middle on (0). A book's run is not always about its topic, so the accuracies have a ceiling below 1. Nothing is
fitted to the table of saesteer.world.degenerate.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from safetensors.numpy import save_file
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from saesteer.analysis.acceptability import distinct_bigram_share
from saesteer.world.books import judge as runtime
from saesteer.world.books.judge import TextJudge, split_words
from saesteer.world.streams import stream_seed
from studies.books.paragraphs import book_sentences
from studies.world.oracle import (
    LOOPED,
    RATINGS,
    ConceptItem,
    FluencyItem,
    best_cut,
    calibration_error,
    continuation_losses,
    rating_cuts,
)
from studies.world.tokenizer import BOS_ID

SMOOTHING = 0.5
IN_TEXTS = 5
"""Paragraphs that a word must stand in to count."""
RUN = (20, 40)
"""Shortest and longest run of tokens to be rated: as long as a steered continuation."""
REPLACED_SHARE = 0.1
LEFT_OUT = 2
"""Telling words that the topic has to be seen without. Not fitted: of three put into a text about something else, as strong steering does,
one remains."""


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


def fluency_items(drawn: Runs, tokenizer: PreTrainedTokenizerFast, seed: int, name: str) -> list[FluencyItem]:
    """One item a run, every rating a third of them: as written (2), with a tenth of its words replaced (1), or, in turn, shuffled and a
    loop (0)."""
    rng = np.random.default_rng(stream_seed(seed, name))
    items = []
    for place, (before, ids, text) in enumerate(zip(drawn.before, drawn.ids, drawn.texts, strict=True)):
        rating, loop = RATINGS[place % len(RATINGS)], place % (2 * len(RATINGS)) == 0
        words = text.split()
        if rating == 1:
            words = partly_replaced(words, drawn.texts[rng.integers(len(drawn.texts))].split(), rng)
        elif rating == 0:
            words = rng.permutation(words).tolist()
        continuation = looped(ids, rng) if loop else ids if rating == 2 else _tokens(tokenizer, words)
        items.append(FluencyItem(before, continuation, rating, loop))
    return items


def partly_replaced(words: Sequence[str], others: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A tenth of the words replaced by other ones."""
    replaced = list(words)
    for place in rng.choice(len(words), max(1, round(REPLACED_SHARE * len(words))), replace=False):
        replaced[place] = others[int(rng.integers(len(others)))]
    return replaced


def looped(ids: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """One to LOOPED successive tokens over and over from the start or from the middle of a run on."""
    start = len(ids) // 2 * int(rng.integers(2))
    first = int(rng.integers(0, len(ids) - LOOPED))
    phrase = ids[first : first + int(rng.integers(1, LOOPED + 1))]
    return (*ids[:start], *islice(cycle(phrase), len(ids) - start))


def _tokens(tokenizer: PreTrainedTokenizerFast, words: Sequence[str]) -> tuple[int, ...]:
    """Ids of words as they stand inside a text."""
    ids: list[int] = tokenizer(" " + " ".join(words), add_special_tokens=False)["input_ids"]
    return tuple(ids)


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
    """Sharpness and all cuts, from runs of the valid books."""
    judge = TextJudge(words, log_likelihood, 1.0, LEFT_OUT, (0.0, 0.0), (0.0, 0.0), 0.0)
    judge = replace(judge, sharpness=fit_sharpness(judge, drawn))
    judge = fit_concept(judge, concept_items(drawn, judge, seed, "books/concept/valid"))
    items = fluency_items(drawn, tokenizer, seed, "books/fluency/valid")
    return fit_fluency(judge, continuation_losses(reference, items), items, tokenizer)


def fit_concept(judge: TextJudge, items: Sequence[ConceptItem]) -> TextJudge:
    """Choose both cuts of the topic's probability."""
    log_odds = [(runtime.concept_log_odds(judge, item.token_ids, item.topic, left_out=0), item.rating) for item in items]
    known = [(float(expit(value)), rating) for value, rating in log_odds if value is not None]
    return replace(judge, concept_cuts=rating_cuts(np.array([value for value, _ in known]), [rating for _, rating in known]))


def fit_fluency(
    judge: TextJudge, losses: Float[np.ndarray, " item"], items: Sequence[FluencyItem], tokenizer: PreTrainedTokenizerFast
) -> TextJudge:
    """Choose both loss cuts on the items that are no loops, and the cut on distinct pairs of words between loops and what is as written."""
    ratings, loops = np.array([item.rating for item in items]), np.array([item.loop for item in items])
    distinct = np.array([distinct_bigram_share(ids) for ids in _words(judge, items, tokenizer)])
    cuts = rating_cuts(-losses[~loops], ratings[~loops].tolist())  # low loss is good
    return replace(judge, fluency_nats=(-cuts[1], -cuts[0]), distinct_bigrams=best_cut(distinct[ratings == 2], distinct[loops]))


def save_text_judge(judge: TextJudge, measured: dict[str, object], folder: Path) -> None:
    """Write what `load_text_judge` reads, with what was measured on books that nothing was fitted on."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"log_likelihood": judge.log_likelihood.astype(np.float16)}, folder / runtime.WEIGHTS)
    (folder / runtime.WORDS).write_text("\n".join(judge.words) + "\n", encoding="utf-8")
    cuts = {name: getattr(judge, name) for name in (*runtime.NUMBERS, *runtime.PAIRS)}
    (folder / runtime.SETTINGS).write_text(json.dumps(cuts | {"measured": measured}, indent=2) + "\n", encoding="utf-8")


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
    fluency = fluency_items(drawn, tokenizer, seed, "books/fluency/judge")
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
